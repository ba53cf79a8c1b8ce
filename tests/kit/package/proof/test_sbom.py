"""The bill of materials: valid by CycloneDX's own schema, complete, and the same each time."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.package.proof.sbom import SBOM, sbom
from kit.package.wheels import Wheel
from submission.bundle import Entry
from tests.kit.package.made import make_bundle, make_checkpoint, make_wheel, make_wheelhouse

ROOT = Path(__file__).resolve().parents[4]
MANIFEST: dict[str, Any] = {
    "project": {"name": "aimo-submission-kit", "version": "0.1.0"},
    "git": {"revision": "a" * 40, "dirty": False},
    "target": "py312-manylinux_2_35-cuda",
    "model": {"name": "someone/model", "architecture": "LlamaForCausalLM", "license": "apache-2.0"},
    "prm": {"name": "scorer", "architecture": "LlamaForTokenClassification", "license": None},
}
ENTRIES = [
    Entry("model/model.safetensors", 3, "1" * 64),
    Entry("prm/config.json", 3, "2" * 64),
    Entry("submission/bundle.py", 3, "3" * 64),
    Entry("wheels/w-1.0-py3-none-any.whl", 3, "4" * 64),
]


def wheel(name: str = "w", version: str = "1.0", licence: str = "MIT") -> Wheel:
    return Wheel(f"{name}-{version}-py3-none-any.whl", name, version, "4" * 64, 3, licence)


@functools.cache
def validator() -> Any:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6)


def is_valid(bill: bytes) -> bool:
    return validator().validate_str(bill.decode()) is None


def test_it_names_code_models_and_wheels_with_hashes_and_licences() -> None:
    bill = sbom(MANIFEST, [wheel(version="2.13.0+cpu", licence="BSD-3-Clause")], ENTRIES)
    assert is_valid(bill)
    data = json.loads(bill)
    code = data["metadata"]["component"]
    assert (code["type"], code["name"], code["version"]) == ("application", "aimo-submission-kit", "0.1.0")
    assert [part["name"] for part in code["components"]] == ["submission/bundle.py"]
    parts = {part["bom-ref"]: part for part in data["components"]}
    assert set(parts) == {"model", "prm", "wheel:w"}
    assert parts["model"]["type"] == "machine-learning-model"
    assert parts["model"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    (weights,) = parts["model"]["components"]
    assert weights["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    assert "licenses" not in parts["prm"]
    assert parts["wheel:w"]["hashes"] == [{"alg": "SHA-256", "content": "4" * 64}]
    assert parts["wheel:w"]["purl"].startswith("pkg:pypi/w@2.13.0%2Bcpu")
    depends = {item["ref"]: item.get("dependsOn", []) for item in data["dependencies"]}
    assert sorted(depends["code"]) == ["model", "prm", "wheel:w"]


def test_it_holds_no_time_and_a_serial_number_of_its_content() -> None:
    first, other = sbom(MANIFEST, [wheel()], ENTRIES), sbom(MANIFEST, [wheel(version="1.1")], ENTRIES)
    assert b"timestamp" not in first
    serials = [json.loads(bill)["serialNumber"] for bill in (first, other)]
    assert serials[0] != serials[1]
    assert all(serial.startswith("urn:uuid:") for serial in serials)


@pytest.mark.slow
def test_it_is_the_same_whatever_the_order_and_the_hash_seed() -> None:
    code = (
        "import sys; from tests.kit.package.proof.test_sbom import *; "
        "sys.stdout.buffer.write(sbom(MANIFEST, [wheel(n) for n in sys.argv[1]], ENTRIES))"
    )
    bills = []
    for seed, order in (("1", "abc"), ("2", "cab")):
        done = subprocess.run(
            [sys.executable, "-c", code, order],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        bills.append(done.stdout)
    assert bills[0] == bills[1]


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    st.text(), st.text(), st.sampled_from(["MIT", "MIT OR Apache-2.0", "BSD; x", "unknown", "LicenseRef-x"])
)
def test_whatever_names_and_licences_a_bundle_has_it_stays_valid(name: str, odd: str, licence: str) -> None:
    model = {**MANIFEST["model"], "name": name or "x", "license": odd or None}
    assert is_valid(
        sbom({**MANIFEST, "model": model}, [wheel(licence=licence), wheel("v", licence=odd)], ENTRIES)
    )


def test_a_built_bundle_has_it_and_lists_it(tmp_path: Path) -> None:
    from submission.bundle import Bundle, verify

    house = make_wheelhouse(tmp_path / "wheels", make_wheel(tmp_path / "wheels"))
    out = make_bundle(tmp_path / "b", make_checkpoint(tmp_path / "model"), house)
    assert verify(out) == []
    bill = (out / SBOM).read_bytes()
    assert is_valid(bill)
    entries = {entry.path: entry.sha256 for entry in Bundle.open(out).manifest.entries}
    assert SBOM in entries
    parts = {part["bom-ref"]: part for part in json.loads(bill)["components"]}
    files = {part["name"]: part["hashes"][0]["content"] for part in parts["model"]["components"]}
    assert files == {path: digest for path, digest in entries.items() if path.startswith("model/")}
    (thing,) = house.wheels
    assert parts["wheel:smallthing"]["hashes"][0]["content"] == thing.sha256

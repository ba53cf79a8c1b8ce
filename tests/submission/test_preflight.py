import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from submission import preflight
from submission.machine import Gpu, Machine
from submission.preflight import Check, check_accelerator, check_disk, enforce
from submission.settings import ContestRules, ContestSettings
from tests.tiny import make_tiny_checkpoint

H100, P100, L4 = Gpu("NVIDIA H100 80GB HBM3", 79.6), Gpu("Tesla P100-PCIE-16GB", 15.9), Gpu("NVIDIA L4", 22.5)
CUDA = "py312-manylinux_2_28-cuda"
AIMO3 = ContestRules(accelerator="H100", accelerator_gib=70)
AIMO2 = ContestRules(accelerator="L4", accelerators=4)


def machine(*gpus: Gpu, trouble: str = "", **changes: Any) -> Machine:
    facts = {"memory": 230 << 30, "cores": 26, "python": "3.12", **changes}
    return Machine(gpus or None, trouble, **facts)


@pytest.mark.parametrize(
    ("rules", "gpus", "target", "ok", "told"),
    [
        (AIMO3, [H100], CUDA, True, "H100 80GB HBM3 (80 GiB)"),
        (AIMO3, [H100], "", True, "H100"),
        (
            AIMO3,
            [P100],
            CUDA,
            False,
            "1 x H100 with 70 GiB wanted, and this machine has Tesla P100-PCIE-16GB",
        ),
        (AIMO3, [], CUDA, False, "this machine has no GPU (no NVIDIA driver)"),
        (AIMO3, [Gpu("NVIDIA H100 MIG 1g.10gb", 9.7)], CUDA, False, "with 70 GiB wanted"),
        (AIMO2, [L4] * 4, CUDA, True, "NVIDIA L4 (22 GiB)"),
        (AIMO2, [L4] * 2, CUDA, False, "4 x L4 wanted"),
        (AIMO2, [Gpu("NVIDIA L40S", 45)] * 4, CUDA, False, "4 x L4 wanted"),
        (ContestRules(), [P100], CUDA, True, "P100"),
        (ContestRules(), [], CUDA, False, "1 x NVIDIA GPU wanted"),
        (ContestRules(), [], "", True, "no GPU"),
        (AIMO3, [], "py312-manylinux_2_28-cpu", True, "the bundle is for a CPU"),
        (AIMO3, [H100], "py312-manylinux_2_28-cpu", False, "the bundle is for a CPU; NVIDIA H100"),
    ],
)
def test_accelerators(rules: ContestRules, gpus: list[Gpu], target: str, ok: bool, told: str) -> None:
    check = check_accelerator(rules, machine(*gpus), target, needed=True)
    assert check.ok == ok and told in check.detail
    assert ok or check.fix


def test_a_gpu_that_torch_cannot_use_is_none() -> None:
    trouble = "torch sees none: its build is for a CPU or for another driver"
    check = check_accelerator(AIMO3, machine(H100, trouble=trouble), CUDA, needed=True)
    assert not check.ok and trouble in check.detail
    assert check_accelerator(AIMO3, machine(), "", needed=False).ok


def look(tmp_path: Path, rules: ContestRules | None = None, **changes: Any) -> dict[str, Check]:
    arguments: dict[str, Any] = {
        "bundle": None,
        "model": None,
        "work": tmp_path,
        "machine": machine(),
        "mounts": tmp_path / "input",
        "ports": (),
        **changes,
    }
    return {check.name: check for check in preflight.preflight(rules or ContestRules(), **arguments)}


def test_a_machine_where_all_is_well(tmp_path: Path) -> None:
    checks = look(tmp_path)
    assert len(checks) == 13
    assert [check for check in checks.values() if not check.ok] == []
    assert "nothing below" in checks["mounts"].detail


def test_a_prm_that_does_not_fit_beside_the_engine_fails(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(15 << 30)
    for gib, fits in ((80.0, True), (24.0, False)):
        one = Machine((Gpu("NVIDIA H100", gib),), "", 64 << 30, 8, "3.12")
        check = look(tmp_path, machine=one, settings=ContestSettings(), prm=tmp_path)["PRM"]
        assert check.ok == fits
        assert ("73%" if fits else "prm.swap = true") in check.detail


def test_this_machine_is_looked_at(tmp_path: Path) -> None:
    checks = look(tmp_path, machine=None)
    assert "GiB" in checks["memory"].detail and checks["python"].ok


def make_bundle(folder: Path, checkpoint: Path, **facts: Any) -> Path:
    """A bundle's folder with the manifest of what lies in it."""
    import hashlib
    import json

    (folder / "model").mkdir(parents=True)
    for file in checkpoint.iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    files = [
        {
            "path": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    manifest = {"format": "aimo-bundle", "version": 1, "target": CUDA, "model": {}, "files": files, **facts}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_bundle_is_compared_with_its_manifest(tmp_path: Path) -> None:
    weights = tmp_path / "files" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(5_000))
    facts = {"license": "apache-2.0", "released": "2025-03-01"}
    bundle = make_bundle(tmp_path / "input" / "datasets" / "me" / "bundle", weights.parent, model=facts)
    rules = ContestRules(licenses=("Apache-2.0", "mit"), released_before="2025-03-15")
    given: dict[str, Any] = {"bundle": bundle, "machine": machine(H100)}
    checks = look(tmp_path, rules, **given)
    assert [check for check in checks.values() if not check.ok] == []
    assert f"1 below {tmp_path / 'input'}: {bundle.parent}" in checks["mounts"].detail

    rules = ContestRules(licenses=("mit",), released_before="2025-03-01")
    wrong = look(tmp_path, rules, bundle=bundle, machine=machine(python="3.11", memory=1 << 29))
    assert {name for name, check in wrong.items() if not check.ok} == {
        "python",
        "licence",
        "release",
        "memory",
    }
    assert "3.11, the bundle's wheels are for 3.12" in wrong["python"].detail

    weights = bundle / "model" / "model.safetensors"
    weights.write_bytes(bytes(4_999) + b"x")
    assert look(tmp_path, **given)["bundle"].ok  # as long as it should be: only its contents tell
    assert "SHA-256" in look(tmp_path, thorough=True, **given)["bundle"].detail
    weights.write_bytes(bytes(4_991))
    assert "model/model.safetensors has 4991 bytes" in look(tmp_path, **given)["bundle"].detail


@pytest.mark.slow
def test_a_checkpoint_is_inspected(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny")
    checks = look(tmp_path, model=checkpoint)
    assert checks["model"].ok and "LlamaForCausalLM" in checks["model"].detail
    assert look(tmp_path, model=checkpoint, machine=machine(memory=1 << 30))["memory"].ok is False
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    cut = look(tmp_path, model=checkpoint)["model"]
    assert not cut.ok and "cut short" in cut.detail


def test_what_a_manifest_does_not_state_is_told(tmp_path: Path) -> None:
    rules = ContestRules(licenses=("mit",), released_before="2025-03-01")
    checks = look(tmp_path, rules)
    assert checks["licence"].ok and checks["licence"].detail.startswith("not stated; the rules allow mit")
    assert checks["release"].ok and checks["release"].detail.startswith("not stated; ")


def test_a_bundle_that_is_elsewhere_is_named(tmp_path: Path) -> None:
    other = tmp_path / "input" / "models" / "bundle"
    other.mkdir(parents=True)
    (other / "manifest.json").write_text("{}")
    checks = look(tmp_path, bundle=tmp_path / "input" / "bundle")
    assert not checks["mounts"].ok and checks["mounts"].fix == f"name the one at {other}"
    assert not checks["bundle"].ok and "manifest" in checks["bundle"].detail


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert f"taken: {port}" in look(tmp_path, ports=(port,))["ports"].detail
    assert look(tmp_path, ports=(port,))["ports"].ok


def test_a_folder_without_room_or_rights_fails(tmp_path: Path) -> None:
    assert not check_disk("disk", tmp_path, 1e9).ok
    gone = look(tmp_path, work=tmp_path / "gone")["disk"]
    assert not gone.ok and "gone" in gone.detail


@pytest.mark.parametrize("rerun", [True, False])
def test_the_server_looks_first(tmp_path: Path, rerun: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A bundle that is nowhere: a commit is refused, a rerun goes on and says so."""

    def look() -> None:
        gone = tmp_path / "bundle"
        preflight.before_contest(
            ContestSettings(), bundle=gone, model=None, prm=None, work=tmp_path, rerun=rerun
        )

    if not rerun:
        with pytest.raises(ValueError, match=r"preflight failed: .*bundle"):
            look()
        return
    look()
    for thread in threading.enumerate():
        if thread.name == "preflight":
            thread.join(60)
    assert "PREFLIGHT FAILED (mounts, bundle), and the contest goes on" in caplog.text


def test_a_failure_ends_a_commit_and_not_a_rerun(caplog: pytest.LogCaptureFixture) -> None:
    checks = [Check("cores", True, "2"), Check("accelerator", False, "a P100", "choose the H100")]
    with pytest.raises(ValueError, match="preflight failed: accelerator") as error:
        enforce(checks, rerun=False)
    assert "FAILED  accelerator  a P100" in str(error.value) and "-> choose the H100" in str(error.value)
    enforce(checks, rerun=True)
    assert "PREFLIGHT FAILED (accelerator), and the contest goes on" in caplog.text
    enforce(checks[:1], rerun=False)

"""A bundle's facts by hand, and the bundles and records that are refused."""

import hashlib
from pathlib import Path

import pytest

from benchmarks.story.bundles import Weights, read_bundle
from tests.benchmarks.story.bundles import PRM, SOLVER, write_bundle, write_rehearsal


def test_sizes_parts_and_what_quantizing_cost(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", quantization={"solver": SOLVER, "prm": PRM})
    found = read_bundle(folder)
    assert (found.name, found.target, found.files, found.size) == ("b", "py311-cpu", 7, 4510)
    assert found.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    # One of the wheels lies in two parts.
    assert (found.wheels, found.wheels_size) == (2, 1000)
    assert found.models == (
        Weights("solver", 1500, 4000, "int8", "perplexity 1.5 to 1.51, the same next token at 99.5 %"),
        Weights(
            "prm",
            2000,
            4000,
            "fp8",
            "a step's score moves by 0.012 on average, on the same side of 0.5 at 98.0 %",
        ),
    )
    assert (found.before, found.models_size, found.rehearsal) == (8000, 3500, None)


def test_models_may_be_as_they_were(tmp_path: Path) -> None:
    found = read_bundle(write_bundle(tmp_path / "b", quantization=None))
    assert found.models == (Weights("solver", 1500, None, "", ""), Weights("prm", 2000, None, "", ""))
    assert found.before == found.models_size == 3500


def test_a_rehearsal_speaks_for_its_own_build(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    write_rehearsal(folder)
    found = read_bundle(folder).rehearsal
    assert found is not None and not found.trouble
    assert (found.install_seconds, found.served_seconds, found.ready_seconds) == (31.5, 1.25, 9.0)
    assert found.memory_mib == 2048 and found.steps == (("verify the bundle", "7 files as built"),)
    write_rehearsal(folder, manifest="0" * 64)
    found = read_bundle(folder).rehearsal
    assert found is not None and found.trouble == "the record is of another build"


def test_damaged_bundles_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json"):
        read_bundle(tmp_path)
    folder = write_bundle(tmp_path / "b", quantization={"solver": {"scheme": "int8"}})
    with pytest.raises(ValueError, match="its report of quantizing cannot be read"):
        read_bundle(folder)
    write_bundle(folder)
    for text in ("{", "[]", '{"steps": [1]}', '{"install_seconds": "<b>"}'):
        write_rehearsal(folder).write_text(text)
        with pytest.raises(ValueError, match="is no record of a rehearsal"):
            read_bundle(folder)
    (folder / "contest.toml").write_text("changed")
    with pytest.raises(ValueError, match=r"is not what was built: contest\.toml has 7 bytes"):
        read_bundle(folder)

"""Shares of a GPU's memory for the solver's engine and a process reward model beside it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.machine import GIB, Gpu
from submission.prm import room
from submission.prm.room import LARGEST, WHOLE, make_room, room_for, side_by_side
from submission.settings import ContestSettings

SEVEN_B = 15 * GIB
"""Weights of a 7B model in 16 bits, roughly."""


def load(*settings: str) -> ContestSettings:
    return ContestSettings.load(None, list(settings))


def test_a_model_in_the_contests_process_is_left_its_weights_and_work() -> None:
    # (15 * 1.1 + 3) / 80 = 0.24375
    found = room_for(load(), SEVEN_B, 80.0)
    assert found.engine.gpu_memory_utilization == pytest.approx(0.97 - 0.24375, abs=1e-4)
    assert found.prm == load().prm


def test_vllm_gets_what_its_weights_ask_for() -> None:
    found = room_for(load("prm.engine=vllm"), SEVEN_B, 80.0)
    assert found.prm.share == pytest.approx(0.24375, abs=1e-4)
    assert found.engine.gpu_memory_utilization == pytest.approx(0.97 - 0.24375, abs=1e-4)
    small = room_for(load("prm.engine=vllm"), GIB, 80.0)
    assert small.prm.share == 0.12 and small.engine.gpu_memory_utilization == pytest.approx(0.85)


def test_a_stated_share_is_kept() -> None:
    found = room_for(load("prm.engine=vllm", "prm.gpu_memory_utilization=0.3"), SEVEN_B, 80.0)
    assert found.prm.share == 0.3 and found.engine.gpu_memory_utilization == pytest.approx(0.67)
    modest = load("engine.gpu_memory_utilization=0.5")
    assert room_for(modest, SEVEN_B, 80.0) == modest


@pytest.mark.parametrize("settings", [("prm.swap=true", "prm.engine=vllm"), ("engine.kind=transformers",)])
def test_who_takes_turns_or_takes_no_share_is_left_alone(settings: tuple[str, ...]) -> None:
    chosen = load(*settings)
    assert room_for(chosen, 70 * GIB, 80.0) == chosen


@given(
    size=st.integers(0, 200 * GIB),
    gib=st.floats(1.0, 200.0),
    engine=st.sampled_from(["vllm", "transformers"]),
)
def test_both_fit_or_the_larger_one_is_refused(size: int, gib: float, engine: str) -> None:
    settings = load(f"prm.engine={engine}")
    try:
        found = room_for(settings, size, gib)
    except ValueError as error:
        assert "prm.swap = true" in str(error)
        assert size / GIB * 1.1 + 3 > LARGEST * gib
        return
    taken = found.prm.share if engine == "vllm" else (size / GIB * 1.1 + 3) / gib
    assert found.engine.gpu_memory_utilization + taken <= WHOLE + 2e-4
    assert found.engine.gpu_memory_utilization >= WHOLE - LARGEST - 1e-4


def weights(folder: Path, gib: float) -> Path:
    folder.mkdir()
    for part in range(2):
        with (folder / f"model-{part}.safetensors").open("wb") as file:
            file.truncate(int(gib * GIB / 2))
    return folder


def test_the_smallest_gpu_counts_and_all_parts_of_the_weights(tmp_path: Path) -> None:
    prm = weights(tmp_path / "prm", 10.0)
    found = make_room(load(), prm, (Gpu("large", 80.0), Gpu("small", 40.0)))
    assert found.engine.gpu_memory_utilization == pytest.approx(0.97 - 14 / 40, abs=1e-4)
    assert make_room(load(), prm, None) == load() == make_room(load(), None, (Gpu("large", 80.0),))


def test_a_prm_that_does_not_fit_is_left_out_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prm = weights(tmp_path / "prm", 15.0)
    monkeypatch.setattr(room, "find_gpus", lambda ask_torch: ((Gpu("small", 24.0),), ""))
    faults: list[tuple[str, str]] = []
    found = side_by_side(load(), prm, lambda what, why: faults.append((what, why)))
    assert found == (load(), None)
    assert faults[0][0] == "PRM left out" and "take turns" in faults[0][1]
    monkeypatch.setattr(room, "find_gpus", lambda ask_torch: (None, ""))
    assert side_by_side(load(), prm, lambda *_: None) == (load(), prm)

"""The probe sees what blocks; the parts run as they do on the page, with shorter texts."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.loop_lag import LIMIT_MS, Probe, hostile, measure, parts, play, section, summary
from tests.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def test_the_probe_sees_a_step_that_blocks() -> None:
    async def main(block: Callable[[], object]) -> Probe:
        async with Probe() as probe:
            await asyncio.sleep(0.02)
            block()
        return probe

    waiting = asyncio.run(main(lambda: time.sleep(0.1)))
    assert 95 < max(waiting.delays) < 1_000
    assert len(waiting.delays) > 3
    assert waiting.computed < 60
    computing = asyncio.run(main(lambda: sum(range(3_000_000))))
    assert 5 < computing.computed <= max(computing.delays) + 5


def test_the_figures_by_hand() -> None:
    probes = [Probe(), Probe(), Probe()]
    for probe, delays in zip(probes, ([1.0, 60.0], [2.0, 3.0], [1.0, 9.0]), strict=True):
        probe.delays, probe.computed = delays, delays[0]
    row = summary("x", probes)
    assert (row["longest_ms"], row["median_longest_ms"], row["worst_ms"], row["wakes"]) == (3, 9, 60, 6)
    page = section({"repeats": 3, "agents": 16, "parts": {"x": row}})
    assert page[-1] == "| x | 6 | 9.0 | 3.0 | 60.0 | 2.0 | 50 |"


def test_hostile_texts_are_as_long_as_asked() -> None:
    assert all(8_000 <= len(text) <= 13_000 for text in hostile(10_000))


@pytest.mark.parametrize("name", ["answers", "aborts", "policy"])
def test_texts_and_policies_hold_nothing_up(model: Path, tmp_path: Path, name: str) -> None:
    measured = asyncio.run(play(parts(4_000)[name], model, tmp_path / "journal.jsonl", repeats=2))
    assert summary(name, measured)["longest_ms"] < 4 * LIMIT_MS  # a machine under tests is no quiet one


@pytest.mark.slow
def test_every_part_runs(model: Path) -> None:
    figures = measure(model, repeats=1, length=6_000)
    assert set(figures["parts"]) == set(parts(6_000))
    assert all(row["wakes"] > 0 for row in figures["parts"].values())

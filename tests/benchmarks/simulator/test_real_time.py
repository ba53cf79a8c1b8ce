"""The simulator's time against contests on another engine whose samples slow each other: in virtual time, and
in real time through the contest's own runtime.
"""

import asyncio
import json
import math
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.run.gathering import gather
from benchmarks.run.judging import Verdict
from benchmarks.run.outcomes import Outcome
from benchmarks.run.plan import CONFIG
from benchmarks.run.sets import Item
from benchmarks.run.tables import write_tables
from benchmarks.simulator.__main__ import app
from benchmarks.simulator.check import check, read_contests, run_overrides
from benchmarks.simulator.contest import Machine
from benchmarks.simulator.pool import read_pools
from benchmarks.simulator.recording import read_recording
from benchmarks.simulator.throughput import Curve
from submission.answers import parse_gold
from submission.clock import Stopwatch
from submission.contest import Contest
from submission.engines.base import Chunk, SampleRequest
from submission.engines.replay import ReplayEngine
from submission.journal import Journal, read_journal
from submission.runtime import Runtime
from submission.settings import ContestSettings
from tests.submission.virtual import run_virtual

ENGINE = Curve(400.0, 3.0)
TOKENS = 5
"""Written at once."""
GOLD = 7
Script = tuple[int, int]
"""Tokens of a sample, and its answer."""

LENGTHS: Mapping[str, Sequence[Script]] = {
    "a": [(60, 7), (90, 1), (130, 7), (190, 7), (260, 7), (420, 1)],
    "b": [(350, 1), (80, 2), (160, 1), (70, 7), (230, 3), (90, 1)],
    "c": [(120, 7), (380, 2), (100, 7), (60, 7), (310, 7), (200, 5)],
    "d": [(75, 7), (75, 7), (75, 7), (410, 7), (150, 7), (240, 1)],
}


class PacedEngine(ReplayEngine):
    """Writes a few tokens at a time, and asks before each time how many others write: no shared clock."""

    def __init__(self) -> None:
        super().__init__({})
        self._writing = 0

    async def start(self) -> None:
        """Loads for a while."""
        await asyncio.sleep(0.15)

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        loop = asyncio.get_running_loop()
        tokens, answer = LENGTHS[request.problem][request.attempt]
        self._writing += 1
        due = loop.time()
        try:
            for written in range(0, tokens, TOKENS):
                due += TOKENS / ENGINE.speed(self._writing)
                await asyncio.sleep(due - loop.time())
                if written + TOKENS < tokens:
                    yield Chunk("", (0,) * TOKENS, (-0.1,) * TOKENS)
            yield Chunk(f"\\boxed{{{answer}}}", (0,) * TOKENS, (-0.1,) * TOKENS, "stop")
        finally:
            self._writing -= 1


@dataclass(frozen=True)
class RealRun:
    """A contest's settings, while it is played and after."""

    folder: Path
    overrides: tuple[str, ...]

    def contest(self, clock: Callable[[], float]) -> Contest:
        settings = ContestSettings.load(None, self.overrides)
        return Contest(settings, PacedEngine(), Journal(self.folder / "journal.jsonl"), clock)

    def play(self) -> None:
        """In real time."""
        clock = Stopwatch()
        runtime = Runtime(lambda: self.contest(clock), lambda: 60.0, 30.0)
        for name in LENGTHS:
            runtime.answer(name, f"Problem {name}?", 0)
        runtime.close()

    async def play_virtual(self) -> None:
        contest = self.contest(asyncio.get_running_loop().time)
        for name in LENGTHS:
            await contest.answer(name, f"Problem {name}?")
        await contest.close()

    def write(self) -> None:
        """As `benchmarks.run` leaves it."""
        contest = gather(read_journal(self.folder / "journal.jsonl"))
        outcomes = []
        for name, one in contest.problems.items():
            assert one.answer is not None
            verdicts = tuple(
                Verdict(
                    None if drawn.line.answer is None else str(drawn.line.answer), drawn.line.answer == GOLD
                )
                for drawn in one.samples
            )
            answer = one.answer.answer
            item = Item(name, name, parse_gold(str(GOLD)))
            outcomes.append(
                Outcome(
                    set="own",
                    repeat=0,
                    item=item,
                    samples=one.samples,
                    verdicts=verdicts,
                    answer=str(answer),
                    right=answer == GOLD,
                    source=one.answer.source,
                    seconds=one.answer.seconds,
                    stopped=one.answer.stopped,
                    begun=one.begun,
                    answered=one.answered,
                )
            )
        told = {
            "set": "own",
            "repeat": 0,
            "time_limit": 3_600.0,
            "order": list(LENGTHS),
        }
        results: dict[str, Any] = {"mode": "contest", "figures": {"own": {}}, "contests": [told]}
        write_tables(self.folder, outcomes, results, {})
        config = {"optimization": "", "settings": list(self.overrides), "time_limit": 3_600.0}
        (self.folder / CONFIG).write_text(json.dumps(config))


REAL = pytest.mark.skipif(
    not os.environ.get("AIMO_REAL_TIME"),
    reason="it measures seconds, and wants a machine that does nothing else: AIMO_REAL_TIME=1 runs it",
)


@pytest.fixture(scope="module", params=["virtual", pytest.param("real", marks=[pytest.mark.slow, REAL])])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RealRun]:
    """Three contests with the same samples, each on an engine of its own; real ones at the same time."""
    ways = {
        "all": ("solver.num_agents=6", "solver.policy=fixed"),
        "pairs": ("solver.num_agents=2", "solver.max_attempts=6", "solver.policy=fixed"),
        "agree": ("solver.num_agents=6", "solver.agree=3"),
    }
    folder = tmp_path_factory.mktemp("runs")
    found = {name: RealRun(folder / name, overrides) for name, overrides in ways.items()}
    if request.param == "virtual":
        for run in found.values():
            run_virtual(run.play_virtual())
    else:
        with ThreadPoolExecutor() as pool:
            list(pool.map(RealRun.play, found.values()))
    for run in found.values():
        run.write()
    return found


@pytest.mark.parametrize("name", ["all", "pairs", "agree"])
def test_a_contest_played_again_takes_the_time_it_took(runs: dict[str, RealRun], name: str) -> None:
    folder = runs[name].folder
    taken = read_recording([folder])
    (real,) = read_contests(folder)
    settings = ContestSettings.load(None, run_overrides(folder, None))
    found = check(real, taken, Machine(read_pools(taken).throughput), settings)
    assert real.seconds > 1.5
    assert abs(found.error) < 0.1, found


def test_the_fit_finds_the_engine(runs: dict[str, RealRun]) -> None:
    pools = read_pools(read_recording([runs["all"].folder]))
    assert pools.source == "fitted to the recording"
    for running in (1, 2, 4, 6):
        assert pools.throughput.speed(running) == pytest.approx(ENGINE.speed(running), rel=0.1)


@pytest.mark.parametrize("name", ["pairs", "agree"])
def test_what_if_is_what_then_is(runs: dict[str, RealRun], name: str) -> None:
    """From the samples of one contest: the time of another, with other company and another rule."""
    recorded = read_recording([runs["all"].folder])
    (played,), (other,) = read_contests(runs["all"].folder), read_contests(runs[name].folder)
    settings = ContestSettings.load(None, runs[name].overrides)
    found = check(played, recorded, Machine(read_pools(recorded).throughput), settings)
    assert abs(other.seconds / played.seconds - 1) > 0.15  # or this would show nothing
    assert found.simulated == pytest.approx(other.seconds, rel=0.1)


def test_the_command_tells_how_close_it_is_and_what_other_contests_would_give(
    runs: dict[str, RealRun], tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    words = [str(runs["agree"].folder), "--contests", "2", "--time-limits", "30m,60m", "--json", str(out)]
    done = CliRunner().invoke(app, [*words, "--attempts", "2,6", "--orders", "hard-first"])
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    assert abs(figures["checks"][0]["error"]) < 0.1
    assert "check      own-0: simulated" in done.output
    assert "samples were cut off" in figures["notes"][0]
    tried = [(one["attempts"], one["time_limit"]) for one in figures["scenarios"]]
    assert tried == [(2, 1800), (2, 3600), (6, 1800), (6, 3600)]
    assert all(one["policy"] == "agree" and one["order"] == "hard-first" for one in figures["scenarios"])
    assert all(math.isfinite(one["score"]["mean"]) for one in figures["scenarios"])


def test_a_journal_tells_as_much_as_the_run_made_of_it(runs: dict[str, RealRun], tmp_path: Path) -> None:
    folder, answers = runs["agree"].folder, tmp_path / "answers.csv"
    answers.write_text("id,answer\n" + "".join(f"{name},{GOLD}\n" for name in LENGTHS))
    told = [replace(one, contest="") for one in read_recording([folder / "journal.jsonl"], answers)]
    run = [replace(one, contest="", answer=_number(one.answer)) for one in read_recording([folder])]
    assert told == run
    with pytest.raises(ValueError, match="--answers names a csv"):
        read_recording([folder / "journal.jsonl"])
    answers.write_text("id,answer\na,7\n")
    with pytest.raises(ValueError, match="has no problem 'b'"):
        read_recording([folder / "journal.jsonl"], answers)
    answers.write_text("name,answer\na,7\n")
    with pytest.raises(ValueError, match="expected a csv"):
        read_recording([folder / "journal.jsonl"], answers)


def _number(answer: object) -> int | None:
    return None if answer is None else int(str(answer))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attempts", "many"], "--attempts 'many'"),
        (["--slower", "very"], "--slower 'very'"),
        (["--slower", "0"], "slower 0"),
        (["--orders", "random"], "--orders 'random'"),
        (["--policies", "best"], "solver.policy"),
        (["--time-limits", "soon"], "duration 'soon'"),
        (["--throughput", "fast"], "throughput 'fast'"),
        (["--bundle", "b", "--profile", "aimo3"], "leave out --profile"),
        (["--setting", "solver.agents=3"], "unknown key"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["nothing.parquet", *words])
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert isinstance(done.exception, ValueError)
    assert "holds no config of benchmarks.run" in str(done.exception)
    assert CliRunner().invoke(app, [str(tmp_path / "nothing.parquet")]).exit_code != 0

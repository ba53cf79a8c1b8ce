"""The fault suite: 200 real runs, hundreds of virtual contests, and what it would say of worse contests."""

import itertools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from benchmarks import faults, faults_real, faults_virtual
from benchmarks.faults_real import FAULTS, Run
from submission.contest import Contest

RUNS = 200


@pytest.fixture(scope="module")
def apart() -> Iterator[ProcessPoolExecutor]:
    """A process for the real runs: each has one server to fork from, and that of training loads torch."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("contests", [40, pytest.param(150, marks=pytest.mark.slow)])
def test_virtual_contests_keep_their_promises(contests: int) -> None:
    played = faults.virtual(contests)
    assert played["broken"] == {}
    assert played["answered"] > played["problems"] / 4, "most engines answer now and then"
    assert set(played["engines"]) == set(faults_virtual.ENGINE_FAULTS)


def test_a_plan_is_the_same_each_time() -> None:
    assert faults_virtual.plan(7) == faults_virtual.plan(7) != faults_virtual.plan(8)


def test_a_contest_that_breaks_its_promises_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of range now and then; and one that forgets what it knew."""
    answer = Contest.answer
    calls = itertools.count(1)

    async def careless(contest: Contest, identifier: str, text: str) -> int:
        found = await answer(contest, identifier, text)
        return -1 if identifier == "p0" else found

    async def forgetful(contest: Contest, identifier: str, text: str) -> int:
        contest._known.clear()
        await answer(contest, identifier, text)
        return next(calls)

    for worse in (careless, forgetful):
        monkeypatch.setattr(Contest, "answer", worse)
        assert faults.virtual(12)["broken"]


def test_the_summary_counts_by_fault() -> None:
    runs = [
        Run("exit", 0, {"a": 7, "b": 0}),
        Run("exit", 1, {"a": 7}, broken=["left behind"]),
        Run("none", 2, {"a": 7}),
    ]
    found = faults.summary(runs)
    assert found["exit"] == {
        "runs": 2,
        "kept": 1,
        "problems": 3,
        "right": 2,
        "broken": ["seed 1: left behind"],
    }
    figures = {"real": found, "peer": {"none": found["none"]}, "virtual": faults.virtual(1)}
    page = "\n".join(faults.section(figures))
    assert "| exit | 2 | 1 | 2 of 3 | | | |" in page
    assert "| none | 1 | 1 | 1 of 1 | 1 | 1 | 1 of 1 |" in page


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_real_contests_keep_their_promises(apart: ProcessPoolExecutor) -> None:
    """Every fault in turn, through gateway, server, warden, engine and sandbox."""
    runs = apart.submit(faults.real, RUNS, workers=6).result()
    assert {run.fault for run in runs} == set(FAULTS)
    assert [f"{run.fault}, seed {run.seed}: {run.broken}" for run in runs if run.broken] == []
    # A suite in which nothing was answered would keep every promise, too.
    answered = sum(run.right for run in runs)
    assert answered > 0.6 * sum(len(run.answers) for run in runs)


@pytest.mark.slow
def test_the_same_fault_without_supervision_costs_the_run(apart: ProcessPoolExecutor) -> None:
    apart.submit(faults_real.prepare).result()
    for fault in ("exit", "kill"):
        run = apart.submit(faults_real.play, fault, 1, supervised=False).result()
        assert run.broken and run.broken[0].startswith("the run was lost"), run

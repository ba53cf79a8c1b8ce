"""Playing a run's contests, each in processes of its own; what is finished is never played again."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from benchmarks.run.durations import spell_duration
from benchmarks.run.follower import Follower
from benchmarks.run.gathering import ENDED, Contest, gather
from benchmarks.run.plan import Job, Plan
from submission.clock import STARTED_AT
from submission.gateway.rehearsal import GatewayError
from submission.journal import ContestLine, Journal, JournalContent, read_journal
from submission.local import Outputs, run_contest
from submission.serve import STALE_SECONDS
from submission.setup import Setup

CALL_SECONDS = 1800.0
"""The gateway's deadline, as in the contest."""


@dataclass(frozen=True)
class Finished:
    """A job that was played: what its journal tells, and the answers as the gateway took them, by id."""

    job: Job
    setup: Setup
    contest: Contest
    answers: Mapping[str, object]


def play(plan: Plan, out: Path, console: Console) -> list[Finished]:
    """Play what is not played yet.

    Raises:
        GatewayError: a contest failed as a whole, or no model answered in it; the same command continues from
            its journal, or plays it anew.
        ValueError: a setting is wrong, or an output cannot be written.
    """
    jobs = plan.jobs
    # Every setting of every job is checked before the first model is loaded.
    setups = {job: plan.setup(job) for job in jobs}
    finished: list[Finished] = []
    for number, job in enumerate(jobs, 1):
        outputs = Outputs.beside(job.folder(out) / "submission.parquet")
        known = stored(job, setups[job], outputs)
        if known is None:
            _tell(plan, finished, number, job, console)
            _play_one(plan, job, setups[job], outputs, console)
            known = stored(job, setups[job], outputs)
            assert known is not None, job.name
            _refuse_silence(known, outputs)
        finished.append(known)
    return finished


def stored(job: Job, setup: Setup, outputs: Outputs) -> Finished | None:
    """A job's result, None where it is not finished.

    Raises:
        ValueError: its folder holds a finished contest with another bundle or other settings.
    """
    import polars as pl

    if not outputs.submission.is_file():
        return None
    contest = gather(read_journal(outputs.journal))
    if not contest.finished:
        return None
    if contest.digest != setup.digest:
        raise ValueError(
            f"{outputs.submission.parent} was played with another bundle or other settings; name a new --out"
        )
    table = pl.read_parquet(outputs.submission)
    return Finished(job, setup, contest, dict(zip(table["id"], table["answer"], strict=True)))


def _refuse_silence(found: Finished, outputs: Outputs) -> None:
    """A contest in which no model wrote anything says nothing of it: it is put aside, to be played anew."""
    samples = [one for problem in found.contest.problems.values() for one in problem.samples]
    if found.contest.faults and not any(one.line.finish in ENDED for one in samples):
        outputs.submission.replace(outputs.submission.with_suffix(".failed.parquet"))
        raise GatewayError(
            "NO_MODEL_ANSWERED", f"{found.job.name}: {found.contest.faults[0]} (see {outputs.log})"
        )


def _play_one(plan: Plan, job: Job, setup: Setup, outputs: Outputs, console: Console) -> None:
    rules = setup.settings.rules
    options = [] if plan.bundle is None else ["--bundle", str(plan.bundle)]
    options += [] if plan.team is None else ["--team", plan.team]
    for override in plan.overrides(job):
        options += ["--set", override]
    refresh(outputs.journal)
    unlimited = plan.samples is not None
    follower: AbstractContextManager[object] = nullcontext()
    if unlimited:
        follower = Follower(outputs.journal, len(job.problems.items), console)
    with _own_clock(), follower:
        run_contest(
            setup,
            job.problems.problems(rules.answer_min, rules.answer_max),
            outputs,
            server_options=options,
            call_seconds=rules.time_limit if unlimited else CALL_SECONDS,
            shuffle=plan.order(job),
            # Its own view tells the time left to a limit that an unlimited run does not have.
            console=Console(quiet=True) if unlimited else console,
        )


@contextmanager
def _own_clock() -> Iterator[None]:
    """Each contest begins now, and not with this process."""
    before = os.environ.get(STARTED_AT)
    os.environ[STARTED_AT] = str(time.time())
    try:
        yield
    finally:
        if before is None:
            del os.environ[STARTED_AT]
        else:
            os.environ[STARTED_AT] = before


def refresh(journal: Path) -> None:
    """Let a contest that was interrupted over a day ago go on, too, and say so in its journal.

    A journal that nobody wrote to for a day counts as another day's contest, which is right for a notebook
    and wrong here: whoever names the folder again means this very run.
    """
    content: JournalContent = read_journal(journal)
    contest = gather(content)
    if not content.of(ContestLine) or contest.finished:
        return
    age = time.time() - content.lines[-1].at
    if age < STALE_SECONDS / 2:
        return
    lines = Journal(journal)
    what = {"type": "fault", "what": "interrupted", "error": f"continued after {spell_duration(age)}"}
    lines.write({**what, "at": round(time.time(), 3), "elapsed": contest.elapsed})
    lines.close()


def _tell(plan: Plan, finished: list[Finished], number: int, job: Job, console: Console) -> None:
    """Which contest begins, and how long all may take."""
    jobs = plan.jobs
    line = f"{number}/{len(jobs)} {job.problems.name}, {len(job.problems.items)} problems"
    line += f", repeat {job.repeat + 1} of {plan.repeat}" if plan.repeat > 1 else ""
    left = len(jobs) - number + 1
    if plan.time_limit is not None:
        line += f"; at most {spell_duration(left * plan.time_limit)} left for {left} contests"
        if finished:
            usual = sum(one.contest.elapsed for one in finished) / len(finished)
            line += f", {spell_duration(left * usual)} at the pace so far"
    console.print(Text(line, "bold"), soft_wrap=True)

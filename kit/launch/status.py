"""`python -m kit.launch status`: what became of the jobs of a run, as a table."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from kit.launch.attempts import Attempt, History
from kit.launch.records import JobRecord
from kit.launch.states import GOOD, UNKNOWN, JobState, states_of

FINISHED = "finished"
"""The last word of an attempt that reached its end."""
SAYS = "launch: "
"""How the lines of a job's supervisor begin."""
_TAIL = 65_536  # bytes of metrics.jsonl that hold its last lines
_COLOURS = {"COMPLETED": "green", "RUNNING": "cyan", "PENDING": "yellow"}
_WAITING = {
    "Priority": "others come first",
    "Resources": "waits for nodes to be free",
    "BeginTime": "was just put back into the queue",
    "JobArrayTaskLimit": "waits for runs of its array",
    "PartitionNodeLimit": "asks for more nodes than its partition gives",
    "PartitionTimeLimit": "asks for more time than its partition gives",
    "PartitionDown": "its partition is down",
    "JobHeldUser": "is held (scontrol release)",
    "JobHeldAdmin": "is held by the administrators",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as your QOS allows",
    "AssocGrpGRES": "your account uses as many GPUs as it may",
}
"""Slurm's commonest reasons in words; any other is shown as it is."""


@dataclass(frozen=True)
class Row:
    """One job in the table. `starts` counts how often it began, `step` is the run's last measured one."""

    record: JobRecord
    state: JobState
    step: int | None
    starts: int
    why: str


def rows_of(records: Sequence[JobRecord]) -> list[Row]:
    """Ask the cluster and the runs' folders."""
    states = states_of(records)
    histories = {record.job: _attempts(record) for record in records}
    for record in records:
        if states[record.job] == JobState(UNKNOWN):
            states[record.job] = _from_history(states[record.job], histories[record.job])
    return [_row(record, states, histories[record.job], records) for record in records]


def _row(
    record: JobRecord,
    states: Mapping[str, JobState],
    attempts: Sequence[Attempt],
    records: Sequence[JobRecord],
) -> Row:
    state = states[record.job]
    step = last_step(record.out / "metrics.jsonl")
    return Row(record, state, step, len(attempts), _why(record, states, attempts, records))


def _why(
    record: JobRecord,
    states: Mapping[str, JobState],
    attempts: Sequence[Attempt],
    records: Sequence[JobRecord],
) -> str:
    """Why it waits, or why it is over without success; how its last start ended, while it goes on."""
    state = states[record.job]
    names = {other.job: other.name for other in records}
    if state.bad or state.state == "PENDING":
        for job in record.after:
            before = states.get(job)
            if before is not None and before.bad and not attempts:
                return f"stopped: {names[job]} (job {job}) before it {_ended(before)}"
    last = attempts[-1].ended if attempts else ""
    if state.state == "PENDING":
        if state.reason.startswith("Dependency"):
            waiting = [job for job in record.after if job not in states or states[job].live]
            return "waits for " + ", ".join(names.get(job, f"job {job}") for job in waiting or record.after)
        words = _WAITING.get(state.reason, state.reason)
        return f"{last}; {words}" if last else words
    if state.bad:
        return _gave_up(record) or last or _slurms_word(state)
    return "" if state.state in (GOOD, "RUNNING") else state.reason


def _ended(state: JobState) -> str:
    return "was cancelled" if state.state == "CANCELLED" else f"ended {state.state}"


def _gave_up(record: JobRecord) -> str:
    """What the supervisor said when it would not start the job any more: all its starts in a row."""
    if not record.errors.is_file():
        return ""
    lines = record.errors.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix(SAYS) for line in lines if line.startswith(SAYS)]
    return said[-1] if said and said[-1].startswith("not requeued: ") else ""


def _slurms_word(state: JobState) -> str:
    if state.reason:
        return state.reason
    return f"exit code {state.exit_code}; see its logs" if state.exit_code not in ("", "0:0") else ""


def _attempts(record: JobRecord) -> list[Attempt]:
    """Starts of this job. An array's tasks have ids of their own there, and a folder each."""
    everything = History.load(record.launch).attempts
    own = [one for one in everything if one.job == record.job]
    return own or [one for one in everything if "_" in record.job]


def _from_history(state: JobState, attempts: Sequence[Attempt]) -> JobState:
    """What the run's own record says, where the cluster says nothing (any more)."""
    if not attempts:
        return state
    ended = attempts[-1].ended
    if ended == FINISHED:
        return JobState(GOOD)
    return JobState("FAILED" if ended else "LOST", reason=ended or "ended without a word")


def last_step(metrics: Path) -> int | None:
    """The step of the last whole line of a run's metrics; None without any."""
    if not metrics.is_file():
        return None
    with metrics.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
        lines = file.read().splitlines()
    for raw in reversed(lines):
        try:
            return int(json.loads(raw)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    made = Table("job", "run", "state", "step", "starts", "time", "nodes", "why")
    for row in rows:
        colour = "red" if row.state.bad else _COLOURS.get(row.state.state, "")
        made.add_row(
            Text(row.record.job),
            Text(row.record.name),
            Text(row.state.state, style=colour),
            "" if row.step is None else str(row.step),
            str(row.starts) if row.starts else "",
            Text(row.state.elapsed),
            Text(row.state.nodes or str(row.record.nodes)),
            Text(row.why),
        )
    return made

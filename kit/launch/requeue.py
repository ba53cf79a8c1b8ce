"""Whether a job that has ended goes back into the queue: decided from what is known, without asking anyone.

A job comes back after a signal, a crash or a lost node, but not for ever: each start notes the progress that
it found, and so many starts in a row that found the same progress are the last. Starts of another job do not
count: who submits again has mended something.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kit.training.signals import REQUEUE_EXIT_CODE

Kind = Literal["finished", "stopped", "failed", "mistake", "withdrawn"]
"""`stopped`: it was asked to, and has saved. `failed`: it may go better next time. `mistake`: it will not."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, and why in words."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class Start:
    """What one start of this job found, and how it ended where anybody could tell."""

    progress: int
    ended: str = ""


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    Args:
        requeue: put the job back.
        exit_code: of the batch script.
        message: what happened and what follows, for the job's output.
    """

    requeue: bool
    exit_code: int
    message: str


def stalls(starts: Sequence[Start], progress: int) -> int:
    """Starts at the end of the list that found the progress that there still is."""
    count = 0
    for start in reversed(starts):
        if start.progress != progress:
            break
        count += 1
    return count


def decide(starts: Sequence[Start], progress: int, ending: Ending, max_stalls: int) -> Decision:
    """What follows from the end of the last of `starts`.

    Args:
        starts: of this job, this one included, in their order.
        progress: as it is now: the newest committed checkpoint's step, or the problems that are answered.
    """
    if ending.kind == "finished":
        return Decision(False, 0, "finished")
    if ending.kind == "withdrawn":
        return Decision(False, 1, f"left to Slurm, which has cancelled or requeued it: {ending.reason}")
    proven = len(starts) != 1 or progress > starts[-1].progress
    if ending.kind == "mistake" and not proven:
        return Decision(False, 2, f"not requeued, it would end the same way again: {ending.reason}")
    if why := given_up(starts, progress, max_stalls, ending.reason):
        return Decision(False, 1, why)
    count = stalls(starts, progress)
    without = f"; start {count} of {max_stalls} without progress" if count else ""
    return Decision(True, REQUEUE_EXIT_CODE, f"{ending.reason}; requeued at progress {progress}{without}")


def given_up(starts: Sequence[Start], progress: int, max_stalls: int, last: str = "") -> str:
    """Why there is no further start; empty if there may be one.

    Args:
        last: how the last start ended, where that is not in `starts` yet.
    """
    count = stalls(starts, progress)
    if count < max_stalls:
        return ""
    ends = [
        start.ended or "ended without a word (its node or batch script was lost)" for start in starts[-count:]
    ]
    if last:
        ends[-1] = last
    told = "; ".join(f"{number}. {end}" for number, end in enumerate(ends, 1))
    return (
        f"not requeued: {count} starts in a row made no progress beyond {progress}: {told}. "
        "Mend the cause and submit the same command again: it goes on from there"
    )

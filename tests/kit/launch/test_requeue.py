"""When a job goes back into the queue, and when not any more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.launch.requeue import Ending, Start, decide, given_up, stalls

FAILED = Ending("failed", "rank 3 on node2 died by SIGKILL")
STOPPED = Ending("stopped", "SIGUSR1: rank 0 saved and stopped")


def starts(*progress: int) -> list[Start]:
    return [Start(number, f"reason {index}") for index, number in enumerate(progress)]


@pytest.mark.parametrize(
    ("found", "now", "count"),
    [([], 0, 0), ([0], 0, 1), ([0], 5, 0), ([0, 0, 5, 5], 5, 2), ([5, 0, 5], 5, 1), ([0, 0], 3, 0)],
)
def test_starts_without_progress(found: list[int], now: int, count: int) -> None:
    assert stalls(starts(*found), now) == count


@pytest.mark.parametrize("ending", [FAILED, STOPPED])
def test_whatever_makes_progress_comes_back(ending: Ending) -> None:
    decision = decide(starts(*range(0, 1000, 10)), 1000, ending, 1)
    assert (decision.requeue, decision.exit_code) == (True, 85)
    assert decision.message == f"{ending.reason}; requeued at progress 1000"


def test_three_starts_without_progress_are_the_last() -> None:
    first = decide(starts(0, 40), 40, FAILED, 3)
    assert first.requeue
    assert first.message.endswith("requeued at progress 40; start 1 of 3 without progress")
    assert decide(starts(0, 40, 40), 40, STOPPED, 3).requeue
    last = decide(starts(0, 40, 40, 40), 40, FAILED, 3)
    assert (last.requeue, last.exit_code) == (False, 1)
    assert last.message == (
        "not requeued: 3 starts in a row made no progress beyond 40: 1. reason 1; 2. reason 2; "
        "3. rank 3 on node2 died by SIGKILL. Mend the cause and submit the same command again: it goes on "
        "from there"
    )


def test_starts_that_nobody_saw_end_count_as_well() -> None:
    """Of a node that was lost, or a batch script: known at the next start only."""
    lost = [Start(7), Start(7)]
    assert given_up(lost, 7, 3) == ""
    assert "1. ended without a word (its node or batch script was lost); 2. " in given_up(lost, 7, 2)
    assert given_up(lost, 8, 2) == ""
    assert given_up([], 0, 1) == ""


def test_ends_that_are_final() -> None:
    assert decide(starts(0), 9, Ending("finished", "finished"), 3).exit_code == 0
    withdrawn = decide(starts(0), 9, Ending("withdrawn", "SIGTERM"), 3)
    assert not withdrawn.requeue
    assert withdrawn.message == "left to Slurm, which has cancelled or requeued it: SIGTERM"


def test_a_mistake_is_final_where_nothing_ever_worked() -> None:
    mistake = Ending("mistake", "rank 0: data.path=x.jsonl: no such file")
    refused = decide(starts(0), 0, mistake, 3)
    assert (refused.requeue, refused.exit_code) == (False, 2)
    assert "it would end the same way again: rank 0: data.path=x.jsonl" in refused.message
    # A run that has trained was not mistaken.
    assert decide(starts(0), 2, mistake, 3).requeue
    assert decide(starts(0, 2), 2, mistake, 3).requeue
    assert not decide(starts(2, 2, 2), 2, mistake, 3).requeue


@given(st.lists(st.integers(0, 3), min_size=1), st.integers(0, 3), st.integers(1, 5))
def test_no_job_comes_back_for_ever(progress: list[int], now: int, most: int) -> None:
    """Where progress stays, at most so many further starts follow."""
    found = starts(*progress)
    for _ in range(most + 1):
        if not decide(found, now, FAILED, most).requeue or given_up(found, now, most):
            break
        found.append(Start(now))
    assert stalls(found, now) >= most

"""States of jobs as a real Slurm 22.05 printed them."""

from kit.launch.states import JobState, read_table

# sacct -XP --format=JobID,State,Elapsed,NodeList,Reason,ExitCode: a failed job, two that
# waited for it, an array of which one runs, one that was cancelled by a user.
SACCT = """\
JobID|State|Elapsed|NodeList|Reason|ExitCode
45540601|FAILED|00:00:01|node[1-2]|None|1:0
45540602|CANCELLED|00:00:00|None assigned|Dependency|0:0
45540603|CANCELLED by 0|00:00:00|None assigned|Dependency|0:0
45540604_0|RUNNING|00:00:07|node1|None|0:0
45540604_[1-2%1]|PENDING|00:00:00|None assigned|JobArrayTaskLimit|0:0
"""


def test_sacct_is_read() -> None:
    assert read_table(SACCT) == {
        "45540601": JobState("FAILED", "00:00:01", "node[1-2]", "", "1:0"),
        "45540602": JobState("CANCELLED", "00:00:00", "", "Dependency", "0:0"),
        "45540603": JobState("CANCELLED", "00:00:00", "", "Dependency", "0:0"),
        "45540604_0": JobState("RUNNING", "00:00:07", "node1", "", "0:0"),
        "45540604_1": JobState("PENDING", "00:00:00", "", "JobArrayTaskLimit", "0:0"),
        "45540604_2": JobState("PENDING", "00:00:00", "", "JobArrayTaskLimit", "0:0"),
    }


def test_nothing_known_is_no_job() -> None:
    assert read_table("") == {} == read_table("JobID|State|Elapsed|NodeList|Reason|ExitCode\n")


def test_what_is_over_and_what_is_bad() -> None:
    assert [JobState(state).live for state in ("PENDING", "RUNNING", "REQUEUED", "COMPLETED")] == [
        *(True, True, True, False)
    ]
    assert [
        JobState(state).bad for state in ("FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY")
    ] == [True] * 5
    assert not any(JobState(state).bad for state in ("COMPLETED", "RUNNING", "UNKNOWN"))

"""What a job asks its Slurm: without one, but for the commands themselves (see tests/slurm)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.launch import slurm
from kit.launch.node import rank_count
from kit.launch.slurm import PORTS_A_JOB, Allocation, State, step_command, target
from kit.launch.spec import JobSpec


@given(st.integers(1, 1 << 32), st.integers(1, 1_000))
def test_jobs_of_near_ids_have_other_ports(job: int, further: int) -> None:
    first, second = (Allocation(str(number), 0, ("node1",)).port for number in (job, job + further))
    for port in (first, second):
        assert 10_000 <= port <= port + PORTS_A_JOB - 1 < 30_000
    assert abs(first - second) >= PORTS_A_JOB


def test_outside_a_job() -> None:
    with pytest.raises(
        ValueError, match="SLURM_JOB_ID, SLURM_JOB_NODELIST is not set: this runs inside a job"
    ):
        Allocation.from_environment({})


def test_what_slurm_says_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for scontrol, which asks for the arguments that it knows."""
    script = tmp_path / "scontrol"
    script.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '"show hostnames gpu[07-09]") printf "gpu07\\ngpu08\\ngpu09\\n" ;;\n'
        '"show job --oneliner 5_2") echo "JobId=7 JobState=COMPLETING Reason=NodeDown ExitCode=0:9" ;;\n'
        '*) echo "Invalid job id" >&2; exit 1 ;;\nesac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "_PAUSES", (0.0,))
    found = Allocation.from_environment(
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu[07-09]", "SLURM_RESTART_COUNT": "2"}
    )
    assert found == Allocation("7", 2, ("gpu07", "gpu08", "gpu09"))
    for name, text in (("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_JOB_ID", "5"), ("SLURM_ARRAY_TASK_ID", "2")):
        monkeypatch.setenv(name, text)
    assert slurm.state_of("7") == State("COMPLETING", 9, "NodeDown")
    with pytest.raises(ValueError, match="scontrol requeue 5_2: Invalid job id"):
        slurm.requeue("7")


@pytest.mark.parametrize(
    ("state", "running", "killed"),
    [
        (State("RUNNING", 0, "None"), True, False),
        (State("RUNNING", 9, "None"), True, False),  # of an earlier start
        (State("COMPLETING", 9, "JobLaunchFailure"), False, True),
        (State("FAILED", 9, "RaisedSignal:9(Killed)"), False, True),
        (State("COMPLETING", 15, "None"), False, False),  # scancel
        (State("COMPLETING", 9, "None"), False, False),  # scancel after an earlier start was killed
        (State("COMPLETING", 0, "TimeLimit"), False, False),
        (State("FAILED", 0, "NonZeroExitCode"), False, False),
    ],
)
def test_whose_job_it_is_to_requeue(state: State, running: bool, killed: bool) -> None:
    assert (state.running, state.script_killed) == (running, killed)


def test_a_job_of_an_array_is_not_the_array() -> None:
    array = {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    assert target("5", array) == "5_3"
    assert target("6", array) == "6"
    assert target("5", {"SLURM_JOB_ID": "5"}) == "5"


def test_a_step_is_one_task_a_node() -> None:
    command = step_command(("n1", "n2"), ["run.sh", "a b"], ["--container-image=x"])
    assert command == [
        *("srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--nodelist=n1,n2"),
        *("--kill-on-bad-exit=1", "--cpu-bind=none", "--container-image=x", "run.sh", "a b"),
    ]


def test_ranks_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    plain, asked = (JobSpec("prm", Path("r.toml"), ranks_per_node=count) for count in (0, 3))
    assert rank_count(plain) == 1
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    assert (rank_count(plain), rank_count(asked)) == (8, 3)

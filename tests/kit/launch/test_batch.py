"""How a start of a job ended, from what engines, ranks and nodes have told."""

import signal
from pathlib import Path

import pytest

from kit.launch.attempts import asked_to_stop, tell_end
from kit.launch.batch import Start, Stop
from kit.launch.requeue import Ending
from kit.launch.slurm import Allocation
from kit.launch.spec import JobSpec

MISTAKE = ("rank-00000", "mistake", "rank 0: server n2:1: the server died")
ENGINE = ("engine-n2", "failed", "engine n2:1 died by SIGKILL")
NODE = ("node-n1", "failed", "rank 1 on n1 died by SIGKILL")
SAVED = ("rank-00001", "stopped", "rank 1 saved and stopped")


def ending(folder: Path, code: int, *told: tuple[str, str, str], asked: str = "") -> Ending:
    for who, kind, reason in told:
        tell_end(folder, who, kind, reason)  # type: ignore[arg-type]
    stop = Stop(folder)
    stop.asked = asked
    start = Start(JobSpec("grpo", Path("r.toml")), Allocation("7", 0, ("n1",)), folder, stop)
    return start._ending(code)


@pytest.mark.parametrize(
    ("code", "told", "kind", "reason"),
    [
        (0, [], "finished", "finished"),
        (0, [SAVED], "stopped", SAVED[2]),
        (1, [MISTAKE, NODE], "mistake", MISTAKE[2]),
        (1, [NODE, SAVED], "failed", NODE[2]),
        # The engine's death is why the ranks complain, whoever was faster to say so.
        (1, [MISTAKE, NODE, ENGINE], "failed", ENGINE[2]),
        # It hung up on a trainer that was done with it.
        (0, [ENGINE], "finished", "finished"),
        (9, [], "failed", "srun ended with exit code 9, and nothing on the nodes says why"),
    ],
)
def test_the_cause_is_named(
    tmp_path: Path, code: int, told: list[tuple[str, str, str]], kind: str, reason: str
) -> None:
    assert ending(tmp_path, code, *told) == Ending(kind, reason)  # type: ignore[arg-type]


def test_who_asked_is_told_with_it(tmp_path: Path) -> None:
    found = ending(tmp_path, 0, SAVED, asked="SIGUSR1")
    assert found == Ending("stopped", "SIGUSR1: rank 1 saved and stopped")


def test_the_first_signal_asks_all_ranks(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    try:
        with Stop(tmp_path) as stop:
            assert not asked_to_stop(tmp_path)
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked == "SIGUSR2"
        assert asked_to_stop(tmp_path)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

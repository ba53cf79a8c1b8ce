"""Own reward functions in their processes: each attack costs one sample, and nothing is left behind."""

import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from kit.rewards.functions import FAILURES, MARK, FunctionPool, _Worker
from submission.processes import children, sweep

ROOT = Path(__file__).resolve().parents[3]
ATTACK = "tests.kit.rewards.functions:attack"
FAMILY = "TEST_REWARD_FAMILY"
TIMEOUT = 1.0


def family(name: str) -> list[psutil.Process]:
    """Living processes that descend from a pool started under this name, wherever they hide."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(FAMILY) == name and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def gone(name: str, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while family(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not family(name)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of this test's processes; none of them may outlive the test."""
    name = secrets.token_hex(8)
    monkeypatch.setenv(FAMILY, name)
    yield name
    left = family(name)
    for process in left:
        process.kill()
    assert left == []


@pytest.fixture(scope="module")
def attacked() -> Iterator[tuple[FunctionPool, Callable[[], list[psutil.Process]]]]:
    """One worker that meets all attacks, and a function that lists its processes."""
    name = secrets.token_hex(8)
    os.environ[FAMILY] = name
    try:
        with FunctionPool(ATTACK, workers=1, timeout=TIMEOUT, memory_gb=0.5) as pool:
            yield pool, lambda: family(name)
        assert family(name) == []
    finally:
        del os.environ[FAMILY]
        for process in family(name):
            process.kill()


QUICK = [
    ("raises", "error", "ValueError: a reason to show (functions.py:"),
    ("raises_colours", "error", "ValueError: ?[31mredred"),
    ("exits_by_exception", "error", "SystemExit"),
    ("recurses", "error", "RecursionError"),
    ("quits", "crash", "ended itself with code 0"),
    ("kills_itself", "crash", "killed by SIGKILL"),
    ("kills_its_group", "crash", "killed by SIGKILL"),
    ("kills_its_parent", "crash", "its worker was ended"),
    ("kills_the_supervisor", "crash", "its worker was ended"),
    ("forges_by_guess", "invalid", "wrote into its worker's pipe"),
    ("forges_and_quits", "invalid", "wrote into its worker's pipe"),
    ("closes_everything", "crash", "ended itself with code 1"),
    ("takes_memory", "error", "MemoryError"),
    ("gives nan", "invalid", "nan"),
    ("gives inf", "invalid", "-inf"),
    ("gives text", "invalid", "a str, not a number"),
    ("gives huge_text", "invalid", "a str, not a number"),
    ("gives huge", "invalid", "1e+300"),
    ("gives huge_integer", "invalid", "OverflowError"),
    ("gives list", "invalid", "a list, not a number"),
    ("gives complex", "invalid", "a complex, not a number"),
    ("gives none", "none", "gave no reward"),
    ("hangs_in_c", "timeout", "over 1 s"),
]
SLOW = [
    ("sleeps", "timeout", "over 1 s"),
    ("hangs_in_regex", "timeout", "over 1 s"),
    ("ignores_signals", "timeout", "over 1 s"),
    ("stops", "timeout", "over 1 s"),
    ("stops_its_parent", "timeout", "over 1 s"),
    ("leaves_children_and_hangs", "timeout", "over 1 s"),
    ("floods_by_guess", "timeout", "over 1 s"),
    ("takes_memory_slowly", "error", "MemoryError"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "failure", "reason"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda value: str(value)[:24],
)
def test_an_attack_costs_its_own_sample(
    attacked: tuple[FunctionPool, Callable[[], list[psutil.Process]]],
    attack: str,
    failure: str,
    reason: str,
) -> None:
    pool, processes = attacked
    before = dict(pool.counts)
    outcome = pool.call({"completion": attack})
    assert math.isnan(outcome.value)
    assert (outcome.failure, reason in outcome.reason) == (failure, True), outcome
    assert pool.call({"completion": "a normal one"}) == (1.0, "", "")
    assert pool.counts == before | {"calls": before["calls"] + 2, failure: before[failure] + 1}
    # Supervisor and caller, and nothing that the attack left.
    assert len(processes()) == 2


@pytest.mark.parametrize(
    ("attack", "value"),
    [
        ("leaves_children 1", 0.5),
        ("leaves_children 20", 0.5),
        ("prints_much", 0.5),
        ("forges_on_stdout", 0.5),
        ("gives true", 1.0),
        ("gives integer", 3.0),
    ],
)
def test_what_is_rude_but_right_still_counts(
    attacked: tuple[FunctionPool, Callable[[], list[psutil.Process]]],
    capfd: pytest.CaptureFixture[str],
    attack: str,
    value: float,
) -> None:
    pool, processes = attacked
    assert pool.call({"completion": attack}) == (value, "", "")
    assert len(processes()) == 2
    assert pool.call({"completion": "a normal one"}) == (1.0, "", "")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_stopped_supervisor_is_killed_with_all_below_it(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.rewards.functions._GRACE_SECONDS", 3.0)
    with FunctionPool(ATTACK, workers=1, timeout=1.0) as pool:
        outcome = pool.call({"completion": "stops_the_supervisor"})
        assert (outcome.failure, outcome.reason) == ("timeout", "its worker no longer answered")
        assert pool.call({"completion": "a normal one"}).value == 1.0
        assert len(family(named)) == 2


@pytest.mark.parametrize(
    ("number", "victims"),
    [
        (signal.SIGTERM, (0, 1, 2, 3)),
        (signal.SIGINT, (3, 2, 1, 0)),
        (signal.SIGUSR1, (2,)),  # the others' comes when the call is over
        (signal.SIGUSR2, (3, 0)),  # its value is wrong
    ],
    ids=["all", "all, upwards", "the call", "its program"],
)
def test_a_launchers_signal_costs_no_reward(
    named: str, tmp_path: Path, number: int, victims: tuple[int, ...]
) -> None:
    """Slurm signals every process of a job that it is about to preempt."""
    with (
        FunctionPool("tests.kit.rewards.functions:through_a_program", workers=1) as pool,
        ThreadPoolExecutor(1) as caller,
    ):
        (worker,) = pool._pool.alive
        outcome = caller.submit(pool.call, {"completion": str(tmp_path / "calls")})
        # Supervisor, caller, call, program.
        processes = [worker._process.pid]
        deadline = time.monotonic() + 20
        while len(processes) < 4 and time.monotonic() < deadline:
            processes += children(processes[-1])
        while "/bin/sleep" not in psutil.Process(processes[3]).cmdline():  # until it is exec'ed
            assert time.monotonic() < deadline
        os.kill(processes[1], signal.SIGSTOP)  # what meets one is not told before it has met all
        for victim in victims:
            os.kill(processes[victim], number)
        os.kill(processes[1], signal.SIGCONT)
        assert outcome.result(30) == (1.0, "", "")
        assert (tmp_path / "calls").read_text() == "called\n" * 2
        assert pool.counts["calls"] == 1 and pool.counts["crash"] == 0
        assert pool._pool.alive == {worker}


def test_signals_at_the_start_and_between_calls_disturb_nothing(named: str) -> None:
    with FunctionPool("tests.kit.rewards.functions:length", workers=1) as pool:
        worker = _Worker(pool._setup)
        try:
            signal_all(named)  # the new one has not run a line yet
            worker.await_ready()
            for _ in range(2):
                assert worker.call({"completion": "four"}).value == 4
                assert not worker.disturbed
                signal_all(named)
        finally:
            begun = time.monotonic()
            worker.kill()
        assert time.monotonic() - begun < 5
        assert pool.call({"completion": "four"}).value == 4
        assert len(pool._pool.alive) == 1


def signal_all(name: str) -> None:
    """As a cluster does, and a terminal."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        for process in family(name):
            process.send_signal(number)


def test_a_worker_that_is_killed_from_outside_costs_no_reward(named: str) -> None:
    with FunctionPool("tests.kit.rewards.functions:length", workers=1) as pool:
        (worker,) = pool._pool.alive
        worker._process.kill()
        worker._process.wait(20)
        assert pool.call({"completion": "four"}).value == 4
        assert pool.counts["calls"] == 1 and pool.counts["crash"] == 0


def test_calls_share_no_state_whatever_the_workers(named: str) -> None:
    with FunctionPool("tests.kit.rewards.functions:counted", workers=2) as pool:
        assert [outcome.value for outcome in pool.map([{}] * 6)] == [1.0] * 6
    drawn = []
    for workers in (1, 2):
        with FunctionPool("tests.kit.rewards.functions:drawn", workers=workers) as pool:
            drawn += [outcome.value for outcome in pool.map([{}] * 4)]
    assert len(set(drawn)) == 1


def test_long_and_strange_texts_arrive_whole(named: str) -> None:
    texts = ["", "x" * 3_000_000, "\ud800 lone", "\0\n\U0001d54f" * 1000]
    with FunctionPool("tests.kit.rewards.functions:length", workers=2) as pool:
        outcomes = pool.map([{"completion": text} for text in texts])
        assert [outcome.value for outcome in outcomes[2:]] == [6.0, 3000.0]
        assert outcomes[0].value == 0
        # Over the bound of a reward, which the message says.
        assert outcomes[1].failure == "invalid"
        assert "3e+06" in outcomes[1].reason


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tests.kit.rewards.no_such:f", "'f' .* module 'tests.kit.rewards.no_such': ModuleNotFoundError"),
        (
            "tests.kit.rewards.functions:absent",
            "'absent' .*functions': AttributeError.*no attribute 'absent'",
        ),
        ("tests.kit.rewards.functions:not_callable", "not_callable is a int, not a function"),
        ("tests.kit.rewards.broken_import:f", "RuntimeError: no licence found"),
    ],
)
def test_what_cannot_be_imported_is_refused_at_the_start(named: str, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FunctionPool(path)


@pytest.mark.parametrize(
    ("how", "seconds", "message"),
    [("exit", 20.0, "ended the process"), ("hang", 0.3, "not end within 0.3 s")],
)
def test_an_import_that_never_returns_is_refused(
    named: str, monkeypatch: pytest.MonkeyPatch, how: str, seconds: float, message: str
) -> None:
    monkeypatch.setenv("BROKEN_IMPORT", how)
    with pytest.raises(ValueError, match=message):
        FunctionPool("tests.kit.rewards.broken_import:f", start_timeout=seconds)


def test_a_module_in_the_current_folder_is_found(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rewards_here.py").write_text(
        "class Own:\n    score = staticmethod(lambda sample: 0.75)\n"
    )
    monkeypatch.chdir(tmp_path)
    with FunctionPool("my_rewards_here:Own.score", workers=1) as pool:
        assert pool.call({}).value == 0.75


def test_close_ends_a_call_under_way(named: str) -> None:
    outcomes = []
    pool = FunctionPool(ATTACK, workers=1, timeout=600)
    thread = threading.Thread(
        target=lambda: outcomes.append(pool.call({"completion": "leaves_children_and_hangs"}))
    )
    thread.start()
    deadline = time.monotonic() + 20
    while len(family(named)) < 8 and time.monotonic() < deadline:  # supervisor, caller, call, five left
        time.sleep(0.05)
    assert len(family(named)) == 8
    pool.close()
    thread.join(20)
    assert [outcome.failure for outcome in outcomes] == ["crash"]
    assert family(named) == []
    with pytest.raises(RuntimeError, match="closed"):
        pool.call({"completion": "x"})
    pool.close()


PARENT = """
import os, sys, threading, time
from kit.rewards.functions import FunctionPool
pools = [FunctionPool(sys.argv[1], workers=1, timeout=600) for attack in sys.argv[2:]]
for pool, attack in zip(pools, sys.argv[2:]):
    threading.Thread(target=pool.call, args=({"completion": attack},), daemon=True).start()
if os.fork() == 0:  # such as a data loader: holds the pools' pipes open after its parent's death
    time.sleep(600)
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_no_worker_outlives_a_killed_trainer(named: str, how: signal.Signals) -> None:
    attacks = ["leaves_children_and_hangs", "hangs_in_c"]
    command = [sys.executable, "-c", PARENT, ATTACK, *attacks]
    trainer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"up\n"
        deadline = time.monotonic() + 20
        # The trainer and its fork; twice supervisor, caller and call; five left behind.
        while len(family(named)) < 13 and time.monotonic() < deadline:
            time.sleep(0.05)
        fork = children(trainer.pid)
        assert len(family(named)) == 13
        trainer.send_signal(how)
        trainer.wait(10)
        deadline = time.monotonic() + 10
        while len(family(named)) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [process.pid for process in family(named)]
        assert len(left) == 1
        assert left[0] in fork
        os.kill(left[0], signal.SIGKILL)
        assert gone(named)
    finally:
        trainer.kill()
        trainer.wait()
        if trainer.stdout:
            trainer.stdout.close()


def test_sweep_finds_by_the_mark_alone(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, time\nos.setsid()\nprint(1, flush=True)\ntime.sleep(600)"
    marked = []
    for token in ("aaaa", "bbbb"):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, MARK: token}, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        marked.append(process)
    reaper = threading.Thread(target=marked[0].wait)
    reaper.start()
    assert sweep(f"{MARK}=aaaa")
    reaper.join(10)
    assert [process.poll() for process in marked] == [-signal.SIGKILL, None]
    marked[1].kill()
    marked[1].wait()


@pytest.mark.slow
def test_sweep_finds_what_forks_away_from_it(named: str) -> None:
    """Each of the chain ends right after it has forked the next: one look misses it one time in three."""
    code = "import os, time\nfor _ in range(40):\n if os.fork(): os._exit(0)\n os.setsid()\ntime.sleep(600)"
    for turn in range(6):
        process = subprocess.Popen([sys.executable, "-S", "-c", code], env={FAMILY: named, MARK: f"t{turn}"})
        time.sleep(0.015 + 0.002 * turn)
        assert sweep(f"{MARK}=t{turn}")
        process.wait(10)
    assert family(named) == []


def test_every_failure_is_met_by_some_attack() -> None:
    assert {failure for _, failure, _ in QUICK} == set(FAILURES)

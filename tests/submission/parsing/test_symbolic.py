"""The killable symbolic checker: real workers, real overruns, many threads."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from submission.parsing import symbolic
from submission.parsing.symbolic import MAX_CHARS, SymbolicChecker


@pytest.fixture(scope="module")
def checker() -> Iterator[SymbolicChecker]:
    with SymbolicChecker(workers=2, timeout=20) as checker:
        yield checker


@pytest.fixture(scope="module")
def hasty() -> Iterator[SymbolicChecker]:
    with SymbolicChecker(timeout=1) as checker:
        yield checker


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # gone meanwhile, or dead and not yet reaped
            if any("symbolic_worker" in part for part in child.cmdline()):
                found.append(child)
    return found


def test_equal_and_different(checker: SymbolicChecker) -> None:
    assert checker.equal(r"2\sqrt{3}", r"\sqrt{12}")
    assert not checker.equal(r"2\sqrt{3}", r"\sqrt{11}")
    assert (checker.timeouts, checker.crashes) == (0, 0)


def test_any_thread_may_ask(checker: SymbolicChecker) -> None:
    pairs = [(f"{n}(x+1)", f"{n}x+{n + n % 2}", n % 2 == 0) for n in range(2, 26)]
    with ThreadPoolExecutor(6) as threads:
        verdicts = list(threads.map(lambda pair: checker.equal(pair[0], pair[1]), pairs))
    assert verdicts == [expected for _, _, expected in pairs]
    assert len(children()) <= 2


def test_a_worker_outlives_the_thread_that_started_it() -> None:
    with SymbolicChecker(timeout=20) as checker:
        thread = threading.Thread(target=checker.equal, args=("x", "x"))
        thread.start()
        thread.join()
        (first,) = children()[-1:]
        assert checker.equal("2x", "x+x")
        assert first.is_running()
        assert checker.crashes == 0


@pytest.mark.slow
def test_an_overrun_is_killed_counted_and_replaced() -> None:
    with SymbolicChecker(timeout=20) as checker:
        assert checker.equal("x+x", "2x")
        worker = children()[-1]
        (alive,) = checker._pool.alive
        alive.timeout = 0.3
        # A stopped worker is one that never answers, whatever the algebra library's speed.
        os.kill(worker.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(checker.equal, "x+x", "2x").result(timeout=60) is False
        assert (checker.timeouts, checker.crashes) == (1, 0)
        assert not worker.is_running()
        assert checker.equal("x+x", "2x")


def test_a_tower_of_powers_costs_its_time_and_no_more() -> None:
    with SymbolicChecker(timeout=0.3) as checker:
        assert checker.equal("9^{9^{9^9}}", r"\sqrt{2}") is False
        assert checker.timeouts + checker.crashes == 1


def test_a_crash_is_counted_and_the_next_comparison_works() -> None:
    with SymbolicChecker(timeout=20) as checker:
        assert checker.equal("x+x", "2x")
        worker = children()[-1]
        worker.kill()
        worker.wait(10)
        assert checker.equal("x+x", "2x") is False
        assert checker.crashes == 1
        assert checker.equal("x+x", "2x") is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "{" * 900,
        "\\" * 900,
        "�",
        "\n",
        '"',
        "$" * 500,
        "__import__('os').system('touch pwned')",
        r"\frac" * 150,
        "9" * MAX_CHARS,
        "😀" * MAX_CHARS,
    ],
)
def test_hostile_text_is_different_from_everything(text: str, hasty: SymbolicChecker) -> None:
    assert hasty.equal(text, r"\sqrt{2}") is False
    assert hasty.equal(r"\sqrt{8}", r"2\sqrt{2}") is True


def test_a_worker_that_is_asked_to_end_from_outside_decides_nothing() -> None:
    """Slurm sends SIGTERM to every process of a job that it is about to preempt."""
    with SymbolicChecker() as checker, ThreadPoolExecutor(1) as pool:
        assert checker.equal("1", "1")
        (worker,) = checker._pool.alive
        os.kill(worker._process.pid, signal.SIGSTOP)
        asked = pool.submit(checker.equal, "x + 1", "1 + x")
        while checker.comparisons < 2:
            time.sleep(0.01)
        os.kill(worker._process.pid, signal.SIGTERM)
        os.kill(worker._process.pid, signal.SIGCONT)
        assert asked.result(60)
        assert checker.crashes == checker.timeouts == 0
        assert checker._pool.alive.isdisjoint({worker})


def test_too_long_a_text_reaches_no_worker() -> None:
    with SymbolicChecker() as checker:
        assert checker.equal("x" * (MAX_CHARS + 1), "x") is False
        assert checker.comparisons == 0


def test_close_ends_the_workers_and_later_calls_raise() -> None:
    before = {child.pid for child in children()}
    checker = SymbolicChecker(timeout=20)
    assert checker.equal("x", "x")
    ours = [child for child in children() if child.pid not in before]
    assert ours
    checker.close()
    checker.close()
    assert not [child for child in children() if child.pid not in before]
    with pytest.raises(RuntimeError, match="closed"):
        checker.equal("x", "x")


def test_a_worker_that_cannot_start_is_an_error_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "_WORKER_MODULE", "submission.no_such_module")
    with (
        SymbolicChecker() as checker,
        pytest.raises(RuntimeError, match="ended at its start with exit code 1"),
    ):
        checker.equal("x", "x")


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"timeout": 0}, {"timeout": float("nan")}])
def test_bad_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"of the symbolic checker must"):
        SymbolicChecker(**arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_orphan_ends() -> None:
    """A parent that is killed outright, with its worker idle, leaves nothing behind."""
    code = (
        "import os, signal\n"
        "from submission.parsing.symbolic import SymbolicChecker\n"
        "import psutil\n"
        "c = SymbolicChecker(timeout=20)\n"
        "assert c.equal('x', 'x')\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_worker_runs_wherever_the_package_was_copied_to(tmp_path: Path) -> None:
    """As from a bundle: the package lies in a folder that only the parent's sys.path knows."""
    package = Path(symbolic.__file__).parents[1]
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(package, root / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from submission.parsing import symbolic\n"
        f"assert symbolic.__file__.startswith({str(root)!r}), symbolic.__file__\n"
        "import psutil\n"
        "with symbolic.SymbolicChecker(timeout=20) as checker:\n"
        "    print(checker.equal('x+x', '2x'))\n"
        "    print(psutil.Process().children()[0].environ()['PYTHONPATH'].split(':')[0])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == ["True", str(root)]


@pytest.mark.slow
def test_the_worker_speaks_json_lines_only() -> None:
    request = json.dumps({"prediction": "x+x", "gold": "2x"}) + "\n"
    done = subprocess.run(
        [sys.executable, "-m", "submission.parsing.symbolic_worker", "20"],
        input=request * 2,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"ready": True}] + [
        {"equal": True}
    ] * 2

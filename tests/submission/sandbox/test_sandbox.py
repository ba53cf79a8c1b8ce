"""Sessions as an agent uses them: memory, values, errors, output, time, and the end of it all."""

import ast
import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission.sandbox import Result, Sandbox, Session
from submission.settings import SandboxSettings

ROOT = Path(__file__).resolve().parents[3]
BARE = SandboxSettings(workers=2, memory_mb=512, output_chars=1_000, preload=("math",))
"""Starts at once: for tests that end sandboxes."""
SMALL = SandboxSettings(workers=4, memory_mb=512, output_chars=1_000, preload=("math", "sympy", "numpy"))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SMALL) as opened:
        yield opened


@pytest.fixture
def session(sandbox: Sandbox) -> Iterator[Session]:
    with sandbox.session() as opened:
        yield opened


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("6 * 7", "42"),
        ("x = 6\nx * 7", "42"),
        ("x = 6", ""),
        ("None", ""),
        ("", ""),
        ("# nothing", ""),
        ("'a\\nb'", "'a\\nb'"),
        ("if True:\n    5", ""),
        ("import sympy as sp\nx = sp.symbols('x')\nsp.solve(x**2 - 2, x)", "[-sqrt(2), sqrt(2)]"),
        ("import sympy as sp\nsp.Matrix([[1, 2], [3, 4]])", "Matrix([\n[1, 2],\n[3, 4]])"),
        ("import numpy as np\nnp.eye(2)", "array([[1., 0.],\n       [0., 1.]])"),
        ("len(str(7 ** 20000))", "16902"),  # 20000 * log10(7) = 16901.96
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    n: int\nP(3)", "P(n=3)"),
        ("def f():\n    return g()\ndef g():\n    return 5\nf()", "5"),
        ("import asyncio\nasync def f():\n    return 3\nasyncio.run(f())", "3"),
        ("from concurrent.futures import ThreadPoolExecutor\n"
         "with ThreadPoolExecutor(4) as p: r = list(p.map(abs, [-1, 2]))\nr", "[1, 2]"),
    ],
)  # fmt: skip
def test_the_last_value_is_shown(session: Session, code: str, value: str) -> None:
    result = session.run_sync(code)
    assert (result.value, result.error) == (value, "")
    assert not result.killed


def test_state_is_kept_and_cleared(session: Session) -> None:
    session.run_sync("x = 1\ndef f(): return x")
    session.run_sync("x += 1\nopen('file', 'w').write('kept')")
    assert session.run_sync("f(), _, open('file').read()").value == "(2, 4, 'kept')"
    session.reset()
    assert "NameError" in session.run_sync("x").error
    assert session.run_sync("import os\nos.listdir()").value == "[]"


def test_sessions_know_nothing_of_each_other(sandbox: Sandbox) -> None:
    with sandbox.session() as first, sandbox.session() as second:
        first.run_sync("x = 1; import math; math.pi = 3")
        assert "NameError" in second.run_sync("x").error
        assert second.run_sync("import math; math.pi").value.startswith("3.14")
        assert first.run_sync("import random; random.random()") != second.run_sync(
            "import random; random.random()"
        )


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("def f(n):\n    return 1 / n\n\nf(0)",
         ["  cell 1, line 4", "    f(0)", "  cell 1, line 2, in f", "    return 1 / n",
          "ZeroDivisionError: division by zero"]),
        ("raise ValueError", ["  cell 1, line 1", "    raise ValueError", "ValueError"]),
        ("import statistics\nstatistics.mean([])",
         ["  cell 1, line 2", "    statistics.mean([])", "  in statistics, line N, mean",
          "statistics.StatisticsError: mean requires at least one data point"]),
        ("input()", ["  cell 1, line 1", "    input()", "EOFError: EOF when reading a line"]),
    ],
)  # fmt: skip
def test_errors_show_the_cell_alone(session: Session, code: str, lines: list[str]) -> None:
    error = session.run_sync(code).error
    error = "\n".join(
        line
        if not line.startswith("  in ")
        else ", ".join([line.split(",")[0], "line N", line.split(", ")[2]])
        for line in error.splitlines()
    )
    assert error.replace("statistics.StatisticsError", "StatisticsError") == "\n".join(lines).replace(
        "statistics.StatisticsError", "StatisticsError"
    )


def test_a_syntax_error_shows_its_place(session: Session) -> None:
    error = session.run_sync("x = 1\ny = (").error
    assert "line 2" in error
    assert error.endswith("SyntaxError: '(' was never closed")
    assert "submission" not in error


def test_output_keeps_both_ends_in_order(session: Session) -> None:
    code = "import os, sys\nprint('1')\nprint('2', file=sys.stderr)\nos.write(1, b'3\\n')\nprint('4')"
    assert session.run_sync(code).output == "1\n2\n3\n4\n"
    output = session.run_sync("for i in range(100_000): print(i)").output
    assert output.startswith("0\n1\n2\n")
    assert output.endswith("\n99998\n99999\n")
    head, mark, tail = output.partition("\n[... ")
    assert len(head) == 500
    assert len(tail.partition("...]\n")[2]) == 500
    # 10 + 90 * 2 + 900 * 3 + 9000 * 4 + 90000 * 5 digits and 100000 line ends
    assert mark + tail.partition("...]")[0] == f"\n[... {588_890 - 1_000} bytes left out "


def test_values_and_messages_are_cut(session: Session) -> None:
    result = session.run_sync("list(range(100_000))")
    assert result.value.startswith("[0, 1, 2")
    assert result.value.endswith("99999]")
    assert len(result.value) < 1_100
    assert len(session.run_sync("raise ValueError('x' * 10 ** 6)").error) < 2_100
    assert len(session.run_sync("def f(n): return f(n + 1)\nf(0)").error) < 1_000


@pytest.mark.parametrize("text", ["\ud800", "\0", "é\u2028", "\x1b[31m"])
def test_any_text_comes_through(session: Session, text: str) -> None:
    assert ast.literal_eval(session.run_sync(ascii(text)).value) == text
    assert session.run_sync(f"print({text!a})").error == ""


def test_a_cell_may_replace_or_close_its_streams(session: Session) -> None:
    session.run_sync("import sys\nsys.stdout.close()\nsys.stdout = None")
    assert session.run_sync("print(1)").output == "1\n"


def test_overrun_calls_are_ended_with_their_output(session: Session) -> None:
    result = session.run_sync("print('so far')\nwhile True: pass", timeout=0.3)
    assert result.output == "so far\n"
    assert result.error == "the code took over 0.3 s; the variables are gone"
    assert result.timed_out
    assert result.killed
    assert 0.3 <= result.seconds < 1.3


def test_too_long_code_and_bad_times_are_refused(session: Session) -> None:
    assert "100001 characters" in session.run_sync("#" * 100_001).error
    assert session.run_sync("#" * 100_000).error == ""
    with pytest.raises(ValueError, match="timeout=-1"):
        session.run_sync("1", timeout=-1)


def test_workers_and_layers_are_checked(sandbox: Sandbox) -> None:
    sessions = [sandbox.session() for _ in range(4)]
    with pytest.raises(RuntimeError, match=r"raise sandbox\.workers"):
        sandbox.session()
    for session in sessions:
        session.close()
    with sandbox.session() as session:
        assert session.run_sync("1").value == "1"
    with pytest.raises(ValueError, match="rlimits"):
        Sandbox(SMALL, without=["rlimits"])


def test_missing_modules_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with Sandbox(SMALL.model_copy(update={"preload": ("no_such_module",)})) as opened:
        assert opened.missing_modules == {"no_such_module": "No module named 'no_such_module'"}
        assert "cannot import no_such_module" in caplog.text
        with opened.session() as session:
            assert session.run_sync("import math; math.gcd(4, 6)").value == "2"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.one_of(st.text(max_size=60), st.text("()[]{}:=+-*/ \n\t'\"\\xe0aif", max_size=60)))
def test_any_text_gives_a_result(session: Session, code: str) -> None:
    assert isinstance(session.run_sync(code, timeout=5), Result)


# --- beside an event loop ------------------------------------------------------------------------


def test_the_loop_goes_on_while_cells_run(sandbox: Sandbox) -> None:
    async def play() -> None:
        sessions = [sandbox.session() for _ in range(4)]
        calls = [asyncio.create_task(one.run("import time; time.sleep(0.3); 1")) for one in sessions]
        longest, began = 0.0, time.monotonic()
        while not all(call.done() for call in calls):
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)
        assert time.monotonic() - began < 1.1
        assert longest < 0.2
        assert [call.result().value for call in calls] == ["1"] * 4
        for one in sessions:
            one.close()

    asyncio.run(play())


def test_a_cancelled_call_is_ended(sandbox: Sandbox, session: Session) -> None:
    async def play() -> None:
        await session.run("x = 1")
        call = asyncio.create_task(session.run("while True: pass", timeout=60))
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="runs a cell already"):
            await session.run("1")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        began = time.monotonic()
        assert "NameError" in (await session.run("x")).error
        assert time.monotonic() - began < 1.0

    asyncio.run(play())


@pytest.mark.slow
def test_many_sessions_at_once() -> None:
    async def play(opened: Sandbox) -> None:
        async def agent(number: int) -> None:
            with opened.session() as session:
                for step in range(5):
                    assert (await session.run(f"x = {number} + {step}")).error == ""
                    assert (await session.run("x")).value == str(number + step)
                if number % 3 == 0:
                    assert (await session.run("while True: pass", timeout=0.2)).timed_out
                if number % 3 == 1:
                    assert (await session.run("import os; os._exit(1)")).killed
                assert (await session.run("1 + 1")).value == "2"

        await asyncio.gather(*(agent(number) for number in range(24)))

    with Sandbox(SandboxSettings(workers=24, preload=("math",))) as opened:
        asyncio.run(play(opened))


# --- ends ----------------------------------------------------------------------------------------


def family(sandbox: Sandbox) -> list[psutil.Process]:
    server = sandbox._server
    assert server is not None
    process = psutil.Process(server.pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process], seconds: float = 5.0) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def test_close_leaves_nothing() -> None:
    opened = Sandbox(BARE)
    folder = opened._server._folder if opened._server else Path()
    session = opened.session()
    assert session.run_sync("1").value == "1"
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(session.run_sync("while True: pass", 60)))
    thread.start()
    time.sleep(0.2)
    processes = family(opened)
    assert len(processes) == 2
    opened.close()
    opened.close()
    thread.join(5)
    assert results[0].killed
    assert gone(processes)
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="closed"):
        session.run_sync("1")
    session.close()


@pytest.mark.slow
def test_a_killed_server_is_replaced() -> None:
    with Sandbox(BARE) as opened, opened.session() as session:
        assert session.run_sync("x = 1; x").value == "1"
        processes = family(opened)
        processes[0].kill()
        assert gone(processes)
        results = [session.run_sync("6 * 7") for _ in range(2)]
        assert results[-1].value == "42"


def test_a_stopped_server_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submission.sandbox.client._GRACE_SECONDS", 0.3)
    with Sandbox(BARE) as opened, opened.session() as session:
        processes = family(opened)
        processes[0].suspend()
        result = session.run_sync("1", timeout=0.2)
        assert result.timed_out
        assert "did not answer" in result.error
        assert [session.run_sync("6 * 7", timeout=10) for _ in range(2)][-1].value == "42"
        assert gone(processes)


@pytest.mark.slow
def test_a_killed_parent_leaves_nothing() -> None:
    code = (
        "import threading, time\n"
        "from submission.sandbox import Sandbox\n"
        "from submission.settings import SandboxSettings\n"
        "sandbox = Sandbox(SandboxSettings(preload=('math',)))\n"
        "session = sandbox.session()\n"
        "threading.Thread(target=session.run_sync, args=('while True: pass', 600)).start()\n"
        "time.sleep(0.3)\n"
        "print(sandbox._server.pid, sandbox._server._folder, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        server = psutil.Process(int(pid))
        processes = [server, *server.children(recursive=True)]
        assert len(processes) == 2
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(processes)
    deadline = time.monotonic() + 5
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(folder).exists()

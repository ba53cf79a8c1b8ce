"""What could cost a whole run in the gateway, the server and the loop: each of these did."""

import asyncio
import builtins
import io
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import submission.__main__ as command_line
from submission.contest import Contest
from submission.daemons import DaemonExecutor
from submission.engines.base import Engine
from submission.engines.replay import Recorded, ReplayEngine, write_recording
from submission.gateway.organiser import find_organiser
from submission.gateway.predict import make_predict
from submission.home import ensure_home
from submission.journal import Journal
from submission.runtime import Runtime
from submission.serve import serve_organiser, writable
from submission.settings import BudgetSettings, ContestRules, ContestSettings, SolverSettings
from submission.setup import resolve
from tests.submission.gateway.stand_in import make_package
from tests.submission.virtual import boxed

ROOT = Path(__file__).resolve().parents[2]
RULES = ContestRules(time_limit=1000.0, expected_problems=2, default_answer=9)
SETTINGS = ContestSettings(rules=RULES, solver=SolverSettings(num_agents=3, agree=None))


# --- the gateway ---------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can what logging says about that: the server's stderr is gone."""
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(gone)])
    monkeypatch.setattr(sys, "stderr", gone)
    frame = make_predict(lambda *_: 1 // 0, 0, 999, 7)("a", "A?")
    assert frame.rows() == [("a", 7)]


class PanicException(BaseException):
    """What Rust's libraries raise: no Exception."""


@pytest.mark.parametrize("error", [RuntimeError("missing CPU features"), PanicException("unwrap")])
def test_pandas_answers_where_polars_is_for_another_machine(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = builtins.__import__

    def broken(name: str, *rest: Any, **named: Any) -> Any:
        if name == "polars":
            raise error
        return whole(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", broken)
    frame = make_predict(lambda *_: 5, 0, 999, 7)("a", "A?")
    assert frame.to_dict("records") == [{"id": "a", "answer": 5}]


def test_no_lone_surrogate_reaches_a_tokenizer() -> None:
    seen: list[str] = []

    def answer(*asked: str) -> int:
        seen.extend(asked)
        return 5

    assert make_predict(answer, 0, 999, 7)("i\ud800", "a\udfffb").rows() == [("i?", 5)]
    assert seen == ["i?", "a?b"]


def test_a_broken_mount_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot even be asked whether it is a folder, beside the one that is looked for."""
    (tmp_path / "broken").symlink_to("n" * 300)
    with pytest.raises(OSError, match="name too long"):
        (tmp_path / "broken").is_dir()
    folder = make_package(tmp_path / "contest", "aimo_3", "AIMO3InferenceServer")
    assert find_organiser([tmp_path]).folder == folder
    monkeypatch.setattr(sys, "path", ["n" * 300, str(folder)])
    assert find_organiser().test_csv == folder / "test.csv"


# --- the server ----------------------------------------------------------------------------------


def test_a_log_goes_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Path("/dev/null/engine.log")
    assert writable(tmp_path / "engine.log") == tmp_path / "engine.log"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert writable(nowhere) == tmp_path / "engine.log"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert writable(nowhere) == Path(os.devnull)
    # No room in either: what the engine prints would fail.
    assert writable(tmp_path / "engine.log", room=1 << 60) == Path(os.devnull)


def rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The answers of a rerun in this process, with recorded samples."""
    make_package(tmp_path / "input", "aimo_3", "AIMO3InferenceServer")
    write_recording(tmp_path / "r.jsonl", {"x1": [boxed(2, 0.01)], "x2": [boxed(4, 0.01)]})
    setup = resolve(None, ["engine.kind=replay", f"engine.recording={tmp_path / 'r.jsonl'}"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    monkeypatch.syspath_prepend(str(tmp_path / "input"))
    for name in [name for name in sys.modules if name.startswith(("kaggle_evaluation", "aimo_"))]:
        monkeypatch.delitem(sys.modules, name)
    serve_organiser(setup, tmp_path / "j.jsonl", None)
    answers: list[int] = pl.read_parquet(tmp_path / "submission.parquet")["answer"].to_list()
    return answers


def test_a_home_that_cannot_be_written_to_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not /, and not one that is missing: what compiles kernels keeps them there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for home in ("/proc", "/dev/null", ""):
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
        ensure_home()
        assert Path(os.environ["HOME"]).parent == tmp_path and "XDG_CACHE_HOME" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ensure_home()
    assert (os.environ["HOME"], os.environ["XDG_CACHE_HOME"]) == (
        str(tmp_path / "own"),
        str(tmp_path / "cache"),
    )


def test_the_end_of_a_rerun_takes_no_answer_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submission.serve.end_journal", lambda _: 1 // 0)
    assert rerun(tmp_path, monkeypatch) == [2, 4]


def test_a_rerun_without_a_contest_is_served_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: Any) -> Runtime:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("submission.serve.Runtime", no_thread)
    assert rerun(tmp_path, monkeypatch) == [0, 0]


def test_a_bundle_that_cannot_be_read_for_a_moment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "PAUSES", (0.01, 0.01))
    asked: list[Any] = []

    def resolve_later(*given: Any, **named: Any) -> str:
        asked.append((given, named))
        if len(asked) < 3:
            raise ValueError("recipe contest.toml cannot be read: Stale file handle")
        return "setup"

    monkeypatch.setattr(command_line, "resolve", resolve_later)
    assert str(command_line._resolved(Path("b"), ["a=1"], "tools")) == "setup"
    assert asked == [((Path("b"), ["a=1"]), {"team": "tools", "strict": False})] * 3
    asked[:] = []
    monkeypatch.setattr(command_line, "PAUSES", (0.01,))
    assert command_line._resolved(None, [], None) is None


@pytest.mark.slow
def test_a_server_whose_folder_is_gone_serves(tmp_path: Path) -> None:
    make_package(tmp_path / "input", "aimo_3", "AIMO3InferenceServer")
    gateway = tmp_path / "input" / "kaggle_evaluation" / "aimo_3_gateway.py"
    gateway.write_text(gateway.read_text().replace('"submission.parquet"', repr(str(tmp_path / "s.parquet"))))
    write_recording(tmp_path / "r.jsonl", {"x1": [boxed(2, 0.01)], "x2": [boxed(4, 0.01)]})
    (tmp_path / "work").mkdir()
    options = f"--set engine.kind=replay --set engine.recording={tmp_path / 'r.jsonl'}"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        ["/bin/sh", "-c", f'rmdir "$PWD"; exec {sys.executable} -m submission --serve {options}'],
        cwd=tmp_path / "work",
        env={
            **os.environ,
            "PYTHONPATH": path,
            "AIMO_INPUT": str(tmp_path / "input"),
            "KAGGLE_IS_COMPETITION_RERUN": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "s.parquet")["answer"].to_list() == [2, 4]


# --- the loop ------------------------------------------------------------------------------------


def runtime(engine: Engine, *, cap: float = 1.0, limit: float = 60.0) -> Runtime:
    budget = BudgetSettings(reserve=1, floor=1, cap=cap)
    settings = SETTINGS.model_copy(update={"budget": budget})
    return Runtime(lambda: Contest(settings, engine, Journal(None), lambda: 0.0), lambda: limit, cap)


def quick(*answers: int) -> list[Recorded]:
    return [boxed(answer, 0.02) for answer in answers]


def test_a_task_that_exits_ends_no_other() -> None:
    class Leaving(ReplayEngine):
        async def start(self) -> None:
            async def leave() -> None:
                raise SystemExit("a library called sys.exit()")

            self.task = asyncio.create_task(leave())

    running = runtime(Leaving({"a": quick(1), "b": quick(3, 3)}))
    assert [running.answer(name, f"{name}?", 9) for name in "ab"] == [1, 3]
    running.close()


def test_calls_that_never_return_hold_up_neither_work_nor_the_end() -> None:
    code = """
import asyncio, time
from submission.daemons import DaemonExecutor

async def main():
    asyncio.get_running_loop().set_default_executor(DaemonExecutor())
    hanging = [asyncio.ensure_future(asyncio.to_thread(time.sleep, 1e6)) for _ in range(100)]
    print(await asyncio.to_thread(lambda: "done"))
    for one in hanging:
        one.cancel()

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "done\n"


def test_work_beside_the_loop_gives_its_result_or_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DaemonExecutor()
    assert pool.submit(divmod, 7, 2).result(5) == (3, 1)
    with pytest.raises(SystemExit):
        pool.submit(sys.exit, 3).result(5)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(5)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert pool.submit(threading.current_thread).result(0) is threading.current_thread()


def test_a_loop_that_was_only_busy_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submission.runtime.RESPONSE_SECONDS", 0.01)
    running = runtime(ReplayEngine({"a": quick(3), "b": quick(4)}))
    assert running.answer("a", "a?", 9) == 3
    running._loop.call_soon_threadsafe(time.sleep, 0.5)
    assert running.answer("b", "b?", 9) == 4
    running.close()


@pytest.mark.slow
def test_a_loop_that_hangs_in_the_first_problem_costs_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was loading when it was asked, but no longer when it hung."""
    monkeypatch.setattr("submission.runtime.GRACE_SECONDS", 0.3)
    release = threading.Event()

    class Hanging(ReplayEngine):
        async def start(self) -> None:
            await asyncio.sleep(0.05)

        def encode_chat(self, messages: Any, *, tools: bool = False) -> list[int]:
            release.wait(20)
            return super().encode_chat(messages, tools=tools)

    running = runtime(Hanging({"a": quick(3)}), cap=0.2, limit=10_000)
    begun = time.monotonic()
    assert running.answer("a", "a?", 9) == 9
    assert time.monotonic() - begun < 5
    release.set()
    running.close()


def test_two_calls_at_once_are_both_answered() -> None:
    running = runtime(ReplayEngine({"a": quick(3, 3, 3), "b": quick(4, 4, 4)}))
    with DaemonExecutor() as pool:
        asked = [pool.submit(running.answer, name, f"{name}?", 9) for name in "abab"]
        assert [future.result(10) for future in asked] == [3, 4, 3, 4]
    running.close()


@pytest.mark.parametrize("method", ["encode_chat", "generate"])
def test_a_panic_costs_what_it_hits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = getattr(ReplayEngine, method)

    def panics(engine: ReplayEngine, *asked: Any, **named: Any) -> Any:
        if "hostile" in str(asked):
            raise PanicException("called `Option::unwrap()` on a `None` value")
        return whole(engine, *asked, **named)

    monkeypatch.setattr(ReplayEngine, method, panics)
    running = runtime(ReplayEngine({"hostile": quick(3, 3), "b": quick(4, 4)}))
    assert [running.answer(name, f"{name}?", 9) for name in ("hostile", "b")] == [9, 4]
    running.close()


def test_a_log_that_nobody_reads_holds_nothing_up() -> None:
    code = """
import logging
from submission import logs
logs.END_SECONDS = 0.1
logs.log_to_stderr()
for number in range(2 * logs.KEPT):
    logging.warning("line %d", number)
print("done")
"""
    reader, writer = os.pipe()
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=writer,
        timeout=20,
        check=True,
    )
    assert done.stdout == b"done\n" and time.monotonic() - begun < 10
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert "WARNING root: line 0\n" in pipe.readline()


def test_what_is_logged_is_written_before_the_end(tmp_path: Path) -> None:
    code = """
import logging, warnings
from submission.logs import log_to_stderr
log_to_stderr()
for number in range(1000):
    logging.info("line %d \\ud800", number)
warnings.warn("attention")
try:
    1 // 0
except ZeroDivisionError:
    logging.exception("failed")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    lines = done.stderr.decode("ascii").splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:1000]] == [f"line {n} \\ud800" for n in range(1000)]
    assert "attention" in lines[1000] and lines[-1] == "ZeroDivisionError: integer division or modulo by zero"

"""Whole contests with faults in real processes: gateway, server, warden, engine, sandbox.

Each run plays a few problems through the gateway within seconds, has one thing go wrong, and is held to what
a contest promises: every answer in range, the end in time, known answers kept, no process left behind.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from benchmarks import fault_server
from benchmarks.fault_server import MARK, serve_run, settings_of
from benchmarks.faults_virtual import tear
from submission.gateway.rehearsal import Gateway, GatewayError, Row
from submission.journal import FaultLine, read_journal
from submission.problems import Problem
from submission.settings import ContestSettings

ENGINE = ("exit", "kill", "halt", "hang", "stall", "hog", "garbage", "nonsense", "shout", "refuse", "slow")
START = ("start exit", "start kill", "start hang", "start memory", "start twice", "start always")
REST = (
    "none",
    "full disk",
    "clock",
    "late gateway",
    "repeated call",
    "server killed",
    "torn journal",
    "sandbox killed",
    "sandbox",
)
FAULTS = (*ENGINE, *START, *REST)
DEFAULT = 0
STORY_ANSWER = 7
LIMIT = 8.0
GRACE = 6.0
"""Seconds over the limit for the server to start and to be ended, on a machine with other loads."""
LEFT_SECONDS = 10.0


@dataclass
class Run:
    """What came of one run.

    Args:
        fault: what went wrong in it.
        seed: of the run.
        answers: by problem.
        seconds: from the server's start to the last answer.
        noted: faults that the journal holds.
        broken: promises that were not kept.
    """

    fault: str
    seed: int
    answers: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    noted: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def right(self) -> int:
        """Problems that were answered by the engine."""
        return sum(answer == STORY_ANSWER for answer in self.answers.values())


def prepare() -> None:
    """Have the process that servers are forked from import what they need."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [fault_server.__name__, "polars", "grpc"]
    )


def play(fault: str, seed: int, supervised: bool = True) -> Run:
    """One run with one fault; where and when it strikes follows from the seed.

    Without supervision the engine is in the contest's process: the peer that public notebooks are.
    """
    random = Random(f"{fault} {seed}")
    run = Run(fault, seed)
    folder = Path(tempfile.mkdtemp(prefix="aimo-fault-", dir="/tmp"))
    mark = folder.name
    try:
        problems = _problems(fault, random, folder)
        settings = settings_of(len(problems), LIMIT, tools=fault.startswith("sandbox"))
        _play(run, folder, problems, settings, random, supervised=supervised)
        run.noted = len(read_journal(folder / "journal.jsonl").of(FaultLine))
        if left := _left(mark):
            run.broken.append(f"left behind: {', '.join(left)}")
    except GatewayError as error:
        run.broken.append(f"the run was lost: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return run


def _problems(fault: str, random: Random, folder: Path) -> list[Problem]:
    """Names of problems are what tells the engine to fail; its starts have a script."""
    count = random.choice([2, 3, 4])
    names = [f"p{number}" + ("code" if fault.startswith("sandbox") else "") for number in range(count)]
    if fault in ENGINE:
        struck = random.randrange(count)
        names[struck] += f",{fault}@{random.randrange(1, 120)}"
    scripts = {
        "start exit": "exit\n",
        "start kill": "kill\n",
        "start hang": "hang\n",
        "start memory": "memory\n",
        "start twice": "exit\nkill\n",
        "start always": "exit\n" * 50,
    }
    if fault in scripts:
        (folder / "start").write_text(scripts[fault])
    return [Problem(name, f"How many bottles, {name}?", None) for name in names]


def _play(
    run: Run,
    folder: Path,
    problems: list[Problem],
    settings: ContestSettings,
    random: Random,
    *,
    supervised: bool,
) -> None:
    fault = run.fault
    begun = time.monotonic()
    cut = random.randrange(1, len(problems)) if fault in {"server killed", "torn journal"} else len(problems)
    with _server(folder, settings, fault, supervised=supervised) as (process, gateway):
        for number, row in enumerate(gateway.run(problems[:cut])):
            _take(run, row)
            if fault == "late gateway":
                time.sleep(0.4)
            if fault == "sandbox killed" and number == 0:
                _kill_sandbox(folder.name)
        if fault == "repeated call":
            for row in gateway.run(problems):
                _take(run, row, again=True)
        if cut < len(problems):
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    if cut < len(problems):
        known = dict(run.answers)
        if fault == "torn journal":
            tear(folder / "journal.jsonl", random)
        with _server(folder, settings, fault, supervised=supervised) as (process, gateway):
            for row in gateway.run(problems):
                _take(run, row, again=fault == "server killed" and known.get(row.id, DEFAULT) != DEFAULT)
    run.seconds = time.monotonic() - begun
    if run.seconds > LIMIT + GRACE:
        run.broken.append(f"ended after {run.seconds:.1f} of {LIMIT:.0f} s")


def _take(run: Run, row: Row, *, again: bool = False) -> None:
    if row.lost:
        run.broken.append(f"{row.id}: {row.lost}")
        return
    before = run.answers.get(row.id, DEFAULT)
    if again and before not in (DEFAULT, row.answer):
        run.broken.append(f"{row.id}: {before} became {row.answer}")
    run.answers[row.id] = int(row.answer)


@contextlib.contextmanager
def _server(
    folder: Path, settings: ContestSettings, fault: str, *, supervised: bool
) -> "Iterator[tuple[BaseProcess, Gateway]]":
    """A server process, and a gateway that talks to it."""
    socket = folder / f"{time.monotonic_ns() % 10**9}.sock"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(
        target=serve_run,
        args=(folder, socket, settings, fault, folder.name),
        kwargs={"supervised": supervised},
    )
    process.start()
    gateway = Gateway(
        socket, settings.rules, call_seconds=LIMIT + GRACE, alive=lambda: _died(process, folder)
    )
    # The first call has no deadline, and a process that is stopped answers none.
    watchdog = threading.Timer(2 * LIMIT + GRACE, process.kill)
    watchdog.start()
    try:
        yield process, gateway
    finally:
        watchdog.cancel()
        gateway.close()
        process.terminate()
        process.join(GRACE)
        process.kill()
        process.join()


def _died(process: BaseProcess, folder: Path) -> str:
    if process.is_alive():
        return ""
    lines = (folder / "server.log").read_text(errors="replace").strip().splitlines()
    return f"the server ended with code {process.exitcode}: {lines[-1][:300] if lines else ''}"


def _processes(mark: str) -> Iterator[tuple[int, str]]:
    """(pid, command) of all living processes of a run."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    yield int(entry.name), command


def _kill_sandbox(mark: str) -> None:
    for pid, command in _processes(mark):
        if "submission.sandbox.server" in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _left(mark: str) -> list[str]:
    """Commands of a run's processes that are still there after a while; they are ended."""
    deadline = time.monotonic() + LEFT_SECONDS
    while found := dict(_processes(mark)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [command[:80] for command in found.values()]

"""The parent of all workers: clock, reaper and undertaker. Runs no model-written code itself.

Started by `submission.sandbox.client` with an empty environment and the maths modules to import, it forks a
worker for each session (`submission.sandbox.worker`): that takes milliseconds, and what is imported is shared
between all of them. It has one thread, so that forking is safe, and it never waits for a single worker.

The end of its input, a new parent, SIGTERM or SIGHUP make it kill all workers, remove their folders and end.
If it is killed itself, the kernel kills the workers.
"""

import contextlib
import itertools
import os
import selectors
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submission.frames import Channel, ClosedError, Parser
from submission.processes import adopt_orphans, children, end_family
from submission.sandbox import scratch as folders
from submission.sandbox.child import Child
from submission.sandbox.layers import PIDS, Setup, forks_possible, probe
from submission.sandbox.preload import preload

_TICK = 0.2
"""Seconds between two looks at whether the parent is still there."""
_BUSY_TICK = 0.02
"""The same while a cell runs: for its deadline, and its folder."""
_SOON = 0.002
_WATCH_SECONDS = 0.05
_SETTLE_SECONDS = 0.1
"""For the threads of an answered call to be gone."""


class _EndedError(BaseException):
    """The parent is gone, or wants this server gone."""


@dataclass
class Call:
    """A cell under way.

    Args:
        number: of the call, by which the parent knows it.
        seconds: its time.
        started: on `time.monotonic`.
        reply: the worker's, while what it left behind may still settle.
        settle: until when.
    """

    number: int
    seconds: float
    started: float
    reply: dict[str, Any] | None = None
    settle: float = 0.0


@dataclass
class Session:
    """One agent's state."""

    worker: Child | None = None
    call: Call | None = None
    dying: list[tuple[Child, "Ending | None"]] = field(default_factory=list)
    closed: bool = False


@dataclass
class Ending:
    """A call whose worker is being killed, and what to tell of it; without a text, how the worker ended."""

    call: Call
    text: str
    timed_out: bool = False
    output: str = ""


class Server:
    """The loop.

    Args:
        setup: of all workers.
        source: descriptor that the parent's messages come from.
        sink: descriptor for ours.
        parent: its process id.
    """

    def __init__(self, setup: Setup, source: int, sink: int, parent: int) -> None:
        self._setup = setup
        self._parent = parent
        self._source = source
        self._parser = Parser()
        self._channel = Channel(source, sink, watch=self._check_parent)
        self._selector = selectors.DefaultSelector()
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count()
        self._removers: set[int] = set()
        self._watched = 0.0
        self._layers: dict[str, str] = {}

    def serve(self) -> None:
        """Prepare, tell the parent, and serve until it ends."""
        adopt_orphans()
        missing = preload(self._setup.preload)
        self._layers = probe(self._setup)
        self._channel.send({"ready": self._layers, "modules": missing, "pid": os.getpid()})
        self._selector.register(self._source, selectors.EVENT_READ, self._on_parent)
        while True:
            for key, _ in self._selector.select(self._patience()):
                # An earlier one of this round may have ended it.
                if key.fd in self._selector.get_map():
                    key.data()
            self._check_parent()
            self._look_after_all()

    def end(self) -> None:
        """Kill all workers and remove what they left."""
        for session in self._sessions.values():
            # Nobody is there to be told.
            session.closed, session.call = True, None
            session.dying = [(worker, None) for worker, _ in session.dying]
            self._end_worker(session, None)
        deadline = time.monotonic() + 5.0
        while (self._sessions or self._removers) and time.monotonic() < deadline:
            self._bury()
            time.sleep(_SOON)
        end_family()

    # --- the parent ------------------------------------------------------------------------------

    def _check_parent(self) -> None:
        if os.getppid() != self._parent:
            raise _EndedError

    def _on_parent(self) -> None:
        try:
            data = os.read(self._source, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            raise _EndedError
        for message in self._parser.feed(data):
            session = self._sessions.setdefault(message["session"], Session())
            match message["do"]:
                case "run":
                    self._run(session, message)
                case "cancel":
                    if session.call is not None and session.call.number == message["number"]:
                        self._end_worker(session, Ending(session.call, "the call was cancelled"))
                case "reset":
                    self._end_worker(session, None)
                case "close":
                    session.closed = True
                    self._end_worker(session, None)

    def _patience(self) -> float:
        sessions = self._sessions.values()
        if any(one.dying or (one.call and one.call.reply) for one in sessions):
            return _SOON
        left = [one.call.started + one.call.seconds - time.monotonic() for one in sessions if one.call]
        return max(0.0, min(_BUSY_TICK, *left)) if left else _TICK

    # --- a call ----------------------------------------------------------------------------------

    def _run(self, session: Session, message: dict[str, Any]) -> None:
        assert session.call is None
        call = Call(message["number"], message["seconds"], time.monotonic())
        try:
            worker = session.worker or self._start(session)
        except OSError as error:
            self._tell(call, error=f"no worker can be started: {error}", killed=True)
            return
        session.call = call
        worker.ask(call.number, message["code"], call.seconds)
        if not worker.push():
            self._selector.register(worker.requests, selectors.EVENT_WRITE, self._pusher(worker))

    def _pusher(self, worker: Child) -> Callable[[], None]:
        def push() -> None:
            if worker.push():
                self._selector.unregister(worker.requests)

        return push

    def _start(self, session: Session) -> Child:
        used = {one.worker.slot for one in self._sessions.values() if one.worker}
        used |= {child.slot for one in self._sessions.values() for child, _ in one.dying}
        slot = next(number for number in itertools.count() if number not in used)
        worker = Child(self._setup, self._layers, next(self._numbers), slot)
        session.worker = worker

        def on_output() -> None:
            if not worker.read_output():
                self._selector.unregister(worker.output)

        self._selector.register(worker.output, selectors.EVENT_READ, on_output)
        self._selector.register(worker.replies, selectors.EVENT_READ, lambda: self._on_reply(session, worker))
        return worker

    def _on_reply(self, session: Session, worker: Child) -> None:
        call = session.call
        try:
            data = worker.read_reply()
            messages = worker.parser.feed(data)
        except BlockingIOError:
            return
        except (ClosedError, OSError):
            data, messages = b"?", [{}]
        if not data:
            self._end_worker(session, Ending(call, "") if call else None)
        elif len(messages) > 1 or (messages and not is_reply(messages[0], call)):
            self._end_worker(
                session, Ending(call, "the code wrote into the sandbox's pipe") if call else None
            )
        elif messages and call is not None:
            call.reply, call.settle = messages[0], time.monotonic() + _SETTLE_SECONDS
            self._settle(session, worker, call)

    def _settle(self, session: Session, worker: Child, call: Call) -> None:
        """Answer, once nothing that the call started still runs; end what does not end by itself."""
        assert call.reply is not None
        left = worker.tasks() != 1 or (forks_possible(self._layers) and self._strays(worker))
        if left and time.monotonic() < call.settle:
            return
        worker.drain_output()
        worker.printed.skip(call.reply["skipped"])
        worker.printed.add(call.reply["rest"].encode("latin-1"))
        if left:
            text = "threads or processes of the call were still running and were ended"
            self._end_worker(session, Ending(call, text, output=worker.printed.text()))
            return
        session.call = None
        self._tell(call, output=worker.printed.text(), value=call.reply["value"], error=call.reply["error"])

    def _strays(self, worker: Child) -> bool:
        return bool(children(worker.pid) or self._orphans())

    def _orphans(self) -> list[int]:
        known = {one.worker.pid for one in self._sessions.values() if one.worker}
        known |= {child.pid for one in self._sessions.values() for child, _ in one.dying}
        return [pid for pid in children(os.getpid()) if pid not in known | self._removers]

    # --- ends ------------------------------------------------------------------------------------

    def _look_after_all(self) -> None:
        now = time.monotonic()
        watch = now - self._watched >= _WATCH_SECONDS
        if watch:
            self._watched = now
        for session in list(self._sessions.values()):
            call, worker = session.call, session.worker
            if call is None or worker is None:
                continue
            if call.reply is not None:
                self._settle(session, worker, call)
            elif now >= call.started + call.seconds:
                text = f"the code took over {call.seconds:g} s"
                self._end_worker(session, Ending(call, text, timed_out=True))
            elif watch and not self._fits(worker):
                text = f"the code wrote more than {self._setup.disk_mb} MB, or too many files"
                self._end_worker(session, Ending(call, text))
        self._bury()

    def _fits(self, worker: Child) -> bool:
        used = folders.usage(worker.scratch)
        return used is not None and used <= self._setup.disk_mb << 20

    def _end_worker(self, session: Session, ending: Ending | None) -> None:
        worker, session.worker = session.worker, None
        call, session.call = session.call, None
        if ending is None and call is not None:
            ending = Ending(call, "its state was cleared meanwhile")
        if worker is None:
            return
        if ending is not None and not ending.output:
            worker.drain_output()
            ending.output = worker.printed.text()
        for pipe in worker.pipes:
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
        worker.kill()
        session.dying.append((worker, ending))

    def _bury(self) -> None:
        """Reap who is dead; then answer its call, so that nothing of it runs beside the next one."""
        for number, session in list(self._sessions.items()):
            for worker, ending in list(session.dying):
                end = worker.reap()
                if end is None:
                    continue
                if forks_possible(self._layers) and self._layers[PIDS]:
                    end_family(self._orphans)
                session.dying.remove((worker, ending))
                self._remove(worker.scratch)
                if ending is not None:
                    text = ending.text or f"the Python process {end}"
                    self._tell(
                        ending.call,
                        output=ending.output,
                        error=f"{text}; the variables are gone",
                        timed_out=ending.timed_out,
                        killed=True,
                    )
            if session.closed and not session.dying:
                del self._sessions[number]
            elif not session.closed and session.worker is None and not session.dying:
                # Ready before it is asked; what fails here fails again, and is told, when it is.
                with contextlib.suppress(OSError):
                    self._start(session)

        for pid in list(self._removers):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._removers.discard(pid)

    def _remove(self, scratch: Path) -> None:
        """Remove a folder, beside the loop where it may take long: seconds for a thousand nested ones."""
        if folders.remove_small(scratch):
            return
        pid = os.fork()
        if pid == 0:
            try:
                os.closerange(0, os.sysconf("SC_OPEN_MAX"))
                for number in (signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                folders.remove(scratch)
            finally:
                os._exit(0)
        self._removers.add(pid)

    def _tell(self, call: Call, **result: Any) -> None:
        seconds = time.monotonic() - call.started
        self._channel.send({"number": call.number, "seconds": seconds, **result})


def is_reply(message: dict[str, Any], call: Call | None) -> bool:
    """Whether a worker's message has the form of the reply to this call."""
    kinds = {"value": str, "error": str, "rest": str, "skipped": int, "number": int}
    return (
        call is not None
        and call.reply is None
        and message.keys() == kinds.keys()
        and all(type(message[name]) is kind for name, kind in kinds.items())
        and message["number"] == call.number
        and all(ord(char) < 256 for char in message["rest"])
    )


def _end(*_: object) -> None:
    raise _EndedError


def main(parent: int) -> None:
    """Serve the parent over stdin and stdout."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    source, sink = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    channel = Channel(source, sink)
    setup = channel.receive()
    own = Setup.read(setup)
    server = Server(own, source, sink, parent)
    try:
        server.serve()
    except (_EndedError, ClosedError):
        pass
    except BaseException:  # noqa: BLE001  # told to the parent, who has the log
        with contextlib.suppress(ClosedError, TimeoutError):
            channel.send({"fatal": traceback.format_exc()}, time.monotonic() + 1.0)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        server.end()
        shutil.rmtree(own.folder, ignore_errors=True)
        sys.stdout.flush()
        os._exit(0)

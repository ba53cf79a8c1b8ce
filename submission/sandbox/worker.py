"""The confined process: runs cells that come over a pipe until the pipe ends; a fork of the server.

In: {"number", "code", "seconds"}; out: {"number", "value", "error", "skipped", "rest"}, lengths first, as
`submission.frames` has them. The descriptors are within the cells' reach, so what comes out of them is only
ever text for this agent, and the server believes none of it beyond that.
"""

import contextlib
import gc
import io
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from submission.frames import Channel
from submission.sandbox.cell import Notebook
from submission.sandbox.layers import Setup, confine
from submission.sandbox.output import CutStream

REQUESTS, REPLIES = 3, 4
"""Descriptors; 0 is /dev/null, 1 and 2 the output."""
GO = b"!"
"""What the server writes first, once the worker is its child."""
_THREAD_SECONDS = 0.2
"""For threads that a call started to end by themselves."""


def become_worker(
    setup: Setup,
    layers: Mapping[str, str],
    scratch: Path,
    server: int,
    slot: int,
    pipes: tuple[int, int, int],
) -> NoReturn:
    """Turn a fresh fork into a worker; never returns.

    Args:
        setup: of the server.
        layers: what `probe` found.
        scratch: this worker's folder.
        server: its process id.
        slot: number of the worker.
        pipes: to read requests from, to write replies to, and to write output to.
    """
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _place(*pipes)
        # Its parent may still be the process between, with which it is not to end.
        if os.read(REQUESTS, len(GO)) != GO:
            os._exit(1)
        os.umask(0o077)
        confine(setup, layers, scratch, server, slot)
        _serve(setup, scratch)
        code = 0
    finally:
        os._exit(code)


def _place(requests: int, replies: int, output: int) -> None:
    """Bring the descriptors to their places and close all others, the server's own among them."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    # First out of the way of each other.
    moved = [os.dup2(one, 100 + place) for place, one in enumerate((nowhere, output, output))]
    moved += [os.dup2(requests, 103), os.dup2(replies, 104)]
    for place, one in enumerate(moved):
        os.dup2(one, place, inheritable=place < REQUESTS)
    os.closerange(REPLIES + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(setup: Setup, scratch: Path) -> None:
    os.environ.update(HOME=str(scratch), TMPDIR=str(scratch), PWD=str(scratch))
    tempfile.tempdir = None
    sys.path[:] = [path for path in sys.path if path in setup.readable]
    sys.argv[:] = [""]
    # The cost of a huge number's digits is bounded by the call's time.
    sys.set_int_max_str_digits(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # `random` itself is seeded anew by every fork
    gc.enable()
    output = CutStream(1, setup.output_bytes, setup.output_bytes - setup.output_bytes // 2)
    # Written through at once, so that the text of a call that never returns is not lost.
    stream: Any = io.TextIOWrapper(
        cast(Any, output),  # nothing of a buffer is needed to write through
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )
    nothing = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123  # it stays for the cells
    notebook = Notebook(setup.output_bytes)
    channel = Channel(REQUESTS, REPLIES)
    while True:
        request = channel.receive()
        # A cell may have put anything in their place.
        sys.stdout = sys.stderr = stream
        sys.stdin = nothing
        shown = notebook.run(request["code"])
        _join_threads(time.monotonic() + min(_THREAD_SECONDS, request["seconds"]))
        skipped, rest = output.end_call()
        channel.send(
            {
                "number": request["number"],
                "value": shown.value,
                "error": shown.error,
                "skipped": skipped,
                "rest": rest.decode("latin-1"),
            }
        )


def _join_threads(deadline: float) -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError, AssertionError):  # not one that Python started
                thread.join(max(0.0, deadline - time.monotonic()))

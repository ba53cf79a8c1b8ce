"""The server's log, which holds nothing up: a thread of its own writes it.

Whoever logs on the contest's event loop, or in a call of the gateway's, would else wait for the reader of a
pipe. Where nobody reads it, that wait has no end, and neither has the problem.
"""

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from logging.handlers import QueueHandler

KEPT = 10_000
"""Lines that wait to be written at most; later ones are lost."""
END_SECONDS = 2.0
"""For what still waits when the process ends, or somebody else writes."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Queue(QueueHandler):
    """Hands lines over; where there is no room for one, it is left out."""

    queue: "queue.Queue[logging.LogRecord]"

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)

    def flush(self) -> None:
        """Wait for what is yet to be written, but not for ever; the interpreter's end does so too."""
        deadline = time.monotonic() + END_SECONDS
        while self.queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Have the root logger write to this process's standard error, whoever reads it, or nobody."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(KEPT)
    handler = _Queue(waiting)
    try:
        # A descriptor of its own: of a stream whose write does not return, the interpreter's end waits for
        # the lock. Without one (closed, say) nothing can be told to anybody.
        sink = os.dup(sys.stderr.fileno())
        threading.Thread(target=_write, args=(waiting, sink), name="log", daemon=True).start()
    except (AttributeError, OSError, ValueError, RuntimeError):
        logging.basicConfig(level=level, format=FORMAT)
        return
    logging.basicConfig(level=level, handlers=[handler], format="%(message)s")
    # Else they go to the stream itself.
    logging.captureWarnings(capture=True)


def _write(waiting: "queue.Queue[logging.LogRecord]", sink: int) -> None:
    form = logging.Formatter(FORMAT)
    while True:
        record = waiting.get()
        with contextlib.suppress(Exception):  # a full disk, or a pipe whose reader is gone
            data = f"{form.format(record)}\n".encode("utf-8", "backslashreplace")
            while data:
                try:
                    data = data[os.write(sink, data) :]
                except BlockingIOError:  # somebody made it a stream that does not wait
                    time.sleep(0.05)
        waiting.task_done()

"""Our modules in processes of their own, each with a log and a process group that can be ended as a whole."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SHOWN = 300
"""Characters of a log's last line."""


def start_module(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, *, append: bool = False
) -> "subprocess.Popen[bytes]":
    """Start `python -m ARGUMENTS...` as the leader of a process group, with all that it prints in `log`."""
    with log.open("ab" if append else "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill such a process and all that share its group, an engine's too, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The beginning of the last line of a log; empty where nothing was written."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:_SHOWN] if lines else ""

"""A peer's side as a process: started with its interpreter, asked in JSON lines, ended with the block."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import IO, Annotated, Any

import typer

from submission.offline import SWITCHES

SERVE = Path(__file__).resolve().parent / "scripts" / "serve.py"
LONGEST = 1_800.0
"""Seconds of one reply; the longest that is known, a training on two cores, takes three minutes."""
LONGEST_END = 60.0
SETTLE = 0.25
"""Seconds between two sides' turns: idle OpenMP threads may spin for 0.2 s, in the other side's time."""

Python = Annotated[
    Path | None, typer.Option("--python", help="Interpreter of the peer.", show_default="this one")
]


class Peer:
    """One side of a comparison in its own environment; made by `open_peer`."""

    def __init__(self, side: str, process: "subprocess.Popen[str]", log: IO[str]) -> None:
        self.versions: dict[str, str] = {}
        self._side, self._process, self._log = side, process, log

    def ask(self, request: Mapping[str, Any]) -> Any:
        """The reply to one request.

        Raises:
            ValueError: the side ended, failed or took too long; with the end of what it printed.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = Timer(LONGEST, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait(LONGEST_END)
            self._log.seek(0)
            said = self._log.read()[-2000:].strip()
            raise ValueError(f"the peer's side {self._side!r} ended with code {code}:\n{said}")
        return json.loads(line)


def peer_environment(python: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Variables of a peer's process: ours, off the network, without what would lead it to our packages."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    path = os.pathsep.join([str(python.parent), ours.get("PATH", os.defpath)])
    return {**ours, **SWITCHES, "PATH": path, **variables}


@contextmanager
def open_peer(
    python: Path, side: str, settings: Mapping[str, Any], variables: Mapping[str, str] | None = None
) -> Iterator[Peer]:
    """A peer's side that is ready: what it imports and loads is done.

    Args:
        python: interpreter of the peer's environment.
        side: module in `benchmarks.peers.scripts`.
        settings: its settings, as that module describes them.
        variables: more environment variables.

    Raises:
        ValueError: there is no such interpreter, or the side does not start.
    """
    if not python.exists():
        raise ValueError(f"{python} does not exist; `python -m benchmarks.peers install` makes the peers'")
    # -I: nothing of this folder, the user's site or PYTHONPATH is imported.
    command = [str(python), "-I", str(SERVE), side]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=peer_environment(python, variables or {}),
        ) as process,
    ):
        peer = Peer(side, process, log)
        try:
            peer.versions = peer.ask(settings)
            yield peer
        finally:
            assert process.stdin is not None
            try:
                process.stdin.close()
                process.wait(LONGEST_END)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                process.kill()

"""A command line called in this process: what it says and its exit code, as from a shell."""

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from submission.cli import run


@dataclass(frozen=True)
class Said:
    """What a command line said, and its exit code; the names are those of a finished process."""

    returncode: int
    stdout: str
    stderr: str


def call(app: Callable[[], Any], *words: object) -> Said:
    """Run a command's `app` with these words, as its `__main__` does; a crash is raised, not told."""
    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", ["command", *map(str, words)]),
        patch.object(sys, "excepthook", sys.excepthook),  # typer puts its own there
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            run(app)
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int), code
    return Said(code, stdout.getvalue(), stderr.getvalue())

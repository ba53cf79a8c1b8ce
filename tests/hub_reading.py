"""What programs find on a hub of this machine (`tests.hub_server`), and what they say of the rest."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.shared import ROOT
from tests.hub_server import Hub


def parquet(*rows: dict[str, Any]) -> bytes:
    """A file of a set."""
    out = io.BytesIO()
    pl.DataFrame(list(rows)).write_parquet(out)
    return out.getvalue()


def found_by(program: str, argument: str, hub: Hub, home: Path) -> dict[str, Any]:
    """The last line that a Python program prints, as JSON, when it asks this hub.

    Args:
        argument: the program's only one.
        home: where the libraries keep their cache.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, argument],
        env=hub.environment(home),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def assert_says(said: Any, parts: list[str]) -> None:
    """One short line that holds all of these."""
    assert isinstance(said, str) and "\n" not in said and len(said) < 600
    assert not [part for part in parts if part not in said], said

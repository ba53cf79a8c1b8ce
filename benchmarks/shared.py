"""Where the real data sets lie, if this machine has them. Nothing here ever needs them to be present."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def shared_file(name: str) -> Path | None:
    """Path of `name` under `$AIMO_SHARED`, else under `shared/data` beside the checkout; None if absent."""
    folder = Path(os.environ.get("AIMO_SHARED") or ROOT.parent / "shared" / "data")
    path = folder / name
    return path if path.exists() else None

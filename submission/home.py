"""A home folder that can be written to: libraries keep there the kernels that they compile, and fail without.

Call `ensure_home()` before anything imports torch, triton or vllm; child processes inherit it.
"""

import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

CACHE = "XDG_CACHE_HOME"


def ensure_home() -> None:
    """Put a temporary folder in the place of a HOME that is missing, or that nothing can be written to."""
    if CACHE in os.environ and not _writable(os.environ[CACHE]):
        del os.environ[CACHE]
    if _writable(os.environ.get("HOME", "")):
        return
    try:
        home = tempfile.mkdtemp(prefix="aimo-home-")
    except OSError as error:
        log.warning("no home folder can be written to: %s", error)
        return
    log.warning("HOME=%s cannot be written to; it is %s now", os.environ.get("HOME"), home)
    os.environ["HOME"] = home


def _writable(folder: str) -> bool:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Path(folder).is_absolute()
    except OSError:
        return False

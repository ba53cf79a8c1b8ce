"""What all command lines share: a user's mistake ends with exit code 2 and one clear line, no traceback."""

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console


def run(app: Callable[[], Any]) -> None:
    """Call a typer app; turn `ValueError` (the user's mistake) into exit code 2 without a traceback."""
    try:
        app()
    except ValueError as error:
        for handler in logging.getLogger().handlers:
            with contextlib.suppress(OSError, ValueError):
                handler.flush()  # what came before stands before it
        Console(stderr=True, soft_wrap=True, emoji=False).print(
            f"error: {error}", style="red", markup=False, highlight=False
        )
        sys.exit(2)

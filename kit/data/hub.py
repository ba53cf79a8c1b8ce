"""Sets of the Hugging Face hub, through the `datasets` library; what fails there is told in one line."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from kit.data.shapes import Row, RowError


def loaded_rows(
    name: str, configuration: str | None, split: str, *, streaming: bool
) -> Iterator[tuple[str, Row | RowError]]:
    """Rows of a hub set or of a local folder; only data is read, a set's own code never runs.

    Args:
        name: of the hub, or a folder.
        configuration: of a set that has several.
        split: as the set calls it.
        streaming: fetch what is asked for, in place of the whole set.

    Raises:
        ValueError: there is no such set, configuration or split, it may not be read, or it broke off.
    """
    import datasets

    try:
        rows = datasets.load_dataset(name, configuration, split=split, streaming=streaming)
    except (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        *_transport_errors(),
    ) as error:
        raise ValueError(
            f"{name} (split {split!r}) can be read neither as a file nor from the hub: {_said(error)}. "
            f"{_hint(error)}"
        ) from None
    return _numbered(name, rows)


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's client lets through of its HTTP library, which its versions have under two names."""
    loaded = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return tuple(module.HTTPError for module in loaded if module is not None)


def _said(error: Exception) -> str:
    if "LocalEntryNotFoundError" in str(error):
        return "it cannot be reached, and nothing of the set is in the cache"  # in place of three lines
    said = str(error)
    if said.startswith("An error occurred while generating") and error.__cause__ is not None:
        said = f"a file of it cannot be read: {error.__cause__}"
    return " ".join(said.split())[:300].rstrip(". ") or type(error).__name__


def _hint(error: Exception) -> str:
    """What to do about a set that did not load."""
    said = str(error)
    hints = {
        "is a gated dataset": "Ask for access on its page, then log in (`hf auth login`, or HF_TOKEN).",
        "doesn't exist on the Hub": "Check the name; for a private set log in (`hf auth login`, HF_TOKEN).",
        "Config name is missing": "Name one after a colon, as in openai/gsm8k:main.",
        "BuilderConfig": "Name another after the colon.",
        "Unknown split": "Set `split` to one that it has.",
        "Bad split": "Set `split` to one that it has.",
        "An error occurred while generating": "Fetch the set again (its copy is below HF_HOME), or mend it.",
    }
    found = next((hint for mark, hint in hints.items() if mark in said), "")
    return found or "Without a network, give the path of a local copy."


def _numbered(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Row | RowError]]:
    import datasets

    number = 0
    try:
        for row in rows:
            number += 1
            yield f"row {number}", row
    # The network, or a damaged file, in the middle of a stream.
    except (OSError, ValueError, datasets.exceptions.DatasetsError, *_transport_errors()) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} broke off after row {number}: {said}") from None

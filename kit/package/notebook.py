"""The notebook of a bundle, and the two metadata files that Kaggle's official client uploads it by."""

import json
import re
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent / "templates" / "notebook.txt"
NOTEBOOK = "aimo-submission.ipynb"
PLACEHOLDER = "INSERT_USERNAME_HERE"
"""What the official client writes where the user's name is still to be filled in."""
COMPETITIONS = {
    "aimo2": "ai-mathematical-olympiad-progress-prize-2",
    "aimo3": "ai-mathematical-olympiad-progress-prize-3",
}
"""Slug of the competition for each shipped profile that has one."""
MACHINES = {"aimo2": "NvidiaL4", "aimo3": "NvidiaH100"}
"""The client's name of the contest's accelerator: without it the notebook gets the default GPU."""


def notebook() -> bytes:
    """The notebook as `.ipynb` bytes, the same each time.

    Cells are cut from the template at its `# %%` lines and numbered in order, since nbformat's own ids are
    random.
    """
    import nbformat

    cells: list[dict[str, Any]] = []
    blocks = re.split(r"^# %%(.*)\n", TEMPLATE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for number, (kind, body) in enumerate(zip(blocks[::2], blocks[1::2], strict=True)):
        cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}}
        if "[markdown]" in kind:
            source = re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
            cell |= {"cell_type": "markdown", "source": source}
        else:
            cell |= {"cell_type": "code", "source": body.strip(), "outputs": [], "execution_count": None}
        cells.append(cell)
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "cells": cells,
    }
    nbformat.validate(document)
    return json_bytes(document)


def check_user(user: str | None) -> str:
    """The Kaggle user for the metadata, or the placeholder; ValueError where it is not a user's name."""
    if user is None:
        return PLACEHOLDER
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,49}", user):
        raise ValueError(f"--kaggle-user {user!r} is not a Kaggle user name (letters, digits and -)")
    return user


def kernel_metadata(user: str, contest: str, *, gpu: bool) -> bytes:
    """`kernel-metadata.json`; `contest` is the name in the settings' rules, `user` as from `check_user`."""
    content: dict[str, Any] = {
        "id": f"{user}/aimo-submission",
        "title": "aimo-submission",
        "code_file": NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": gpu,
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": [f"{user}/aimo-bundle"],
        "competition_sources": [COMPETITIONS[contest]] if contest in COMPETITIONS else [],
        "kernel_sources": [],
        "model_sources": [],
    }
    if gpu and contest in MACHINES:
        content["machine_shape"] = MACHINES[contest]
    return json_bytes(content)


def dataset_metadata(user: str) -> bytes:
    """`dataset-metadata.json`: licence "other", since code, model and wheels each have their own."""
    return json_bytes(
        {
            "title": "aimo-bundle",
            "id": f"{user}/aimo-bundle",
            "licenses": [{"name": "other"}],
            "description": "Offline bundle made by kit.package; the licences of its parts are in licenses/.",
        }
    )


def json_bytes(content: Any) -> bytes:
    """JSON as UTF-8, keys sorted, the same bytes for the same content."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")

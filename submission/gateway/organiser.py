"""The organiser's evaluation package: found at run time, never shipped (it states no licence).

It lies in the competition's data folder, whose mount has moved over the years, so it is searched for. Its
flavours are named `aimo_2_inference_server`, `aimo_3_inference_server` and so on, by the contest's number.
"""

import contextlib
import importlib
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

RERUN = "KAGGLE_IS_COMPETITION_RERUN"
INPUT = Path(os.environ.get("AIMO_INPUT", "/kaggle/input"))
SERVER = re.compile(r"aimo_(\d{1,3})_inference_server\.py")
# competitions/<slug>/kaggle_evaluation is the deepest layout seen; one level to spare.
DEPTH = 4
TEST_CSV = "test.csv"


@dataclass(frozen=True)
class Organiser:
    """Where the package lies, which flavour it is, and the competition's own test file if there is one."""

    folder: Path
    flavour: str
    server_class: str
    test_csv: Path | None


def folders(root: Path, depth: int) -> Iterator[Path]:
    """`root` and the folders below it down to `depth` levels, nearest first; unreadable ones are skipped."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [below for folder in level for below in _below(folder)]


def _below(folder: Path) -> list[Path]:
    """Its folders in order. One that cannot be looked at (a mount that broke) hides none of the others."""
    found: list[Path] = []
    # Not `iterdir`: asking a network mount after each of a hundred thousand files takes minutes.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir():
                    found.append(folder / entry.name)
    return sorted(found)


def _is_file(path: Path) -> bool:
    """Whether it is one; False as well where nobody may look, or the module path names nonsense."""
    try:
        return path.is_file()
    except OSError:
        return False


def _contests(package: Path) -> list[int]:
    """Numbers of the contests that the package in a folder serves."""
    found: list[int] = []
    with contextlib.suppress(OSError), os.scandir(package) as entries:
        found += [int(match[1]) for entry in entries if (match := SERVER.fullmatch(entry.name))]
    return found


def find_organiser(roots: Sequence[Path] | None = None) -> Organiser:
    """Find `kaggle_evaluation` on the module path or below the input mounts.

    Raises:
        ValueError: it is nowhere; the message lists where it was looked for.
    """
    searched = [Path(entry or ".") for entry in sys.path] if roots is None else []
    mounts = [INPUT] if roots is None else list(roots)
    for folder in [*searched, *(item for root in mounts for item in folders(root, DEPTH))]:
        if numbers := _contests(folder / "kaggle_evaluation"):
            newest, test_csv = max(numbers), folder / TEST_CSV
            found = test_csv if _is_file(test_csv) else None
            return Organiser(folder, f"aimo_{newest}", f"AIMO{newest}InferenceServer", found)
    places = ", ".join(str(mount) for mount in mounts)
    raise ValueError(
        f"the organiser's package kaggle_evaluation is neither on the module path nor below {places}: "
        "add the competition as a data source of the notebook, or rehearse with --problems FILE"
    )


def make_server(organiser: Organiser, predict: Callable[..., Any]) -> Any:
    """Import the package and wrap `predict` in its inference server."""
    # The package imports its own gateway module by its bare name, so both folders are needed; last,
    # so that nothing in a data folder can stand in for an installed module.
    for entry in (organiser.folder, organiser.folder / "kaggle_evaluation"):
        if str(entry) not in sys.path:
            sys.path.append(str(entry))
    module = importlib.import_module(f"kaggle_evaluation.{organiser.flavour}_inference_server")
    return getattr(module, organiser.server_class)(predict)


def serve(organiser: Organiser, predict: Callable[..., Any], test_csv: Path | None = None) -> None:
    """Serve the hidden test set in a rerun (blocks until the end), else play the local gateway.

    Args:
        organiser: from `find_organiser`.
        predict: from `make_predict`.
        test_csv: for the local gateway; by default the competition's own.
    """
    server = make_server(organiser, predict)
    if os.environ.get(RERUN):
        log.warning("serving the hidden test set (%s)", organiser.flavour)
        server.serve()
        return
    path = test_csv or organiser.test_csv
    if path is None:
        raise ValueError(f"no {TEST_CSV} beside {organiser.folder}/kaggle_evaluation: give --problems FILE")
    log.warning("local gateway (%s) over %s", organiser.flavour, path)
    server.run_local_gateway(_local_data(server.run_local_gateway, path))


def _local_data(run_local_gateway: Callable[..., None], path: Path) -> str | tuple[str]:
    """What names the problems of the local gateway: its files up to 1.4, their folder since 1.7."""
    if "data_paths" in inspect.signature(run_local_gateway).parameters:
        return (str(path),)
    if path.name != TEST_CSV:
        raise ValueError(f"{path}: this local gateway reads a file named {TEST_CSV}; rename it")
    return str(path.parent)

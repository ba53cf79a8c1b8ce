"""Where the Python installation and the system's libraries lie: all that a worker may read."""

import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
_LIBRARY_FOLDERS = ("site-packages", "dist-packages")
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package `submission`: a bundle, a checkout, or site-packages."""


def library_folders() -> list[str]:
    """The entries of `sys.path` that hold libraries, and the standard library's; not scripts' folders."""
    named = sysconfig.get_paths()
    found = [named[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [path for path in sys.path if Path(path).name in (*_LIBRARY_FOLDERS, "lib-dynload")]
    found += [path for path in sys.path if path.endswith(".zip") and Path(path).is_file()]
    return list(dict.fromkeys(path for path in found if Path(path).exists()))


def readable_paths(more: Iterable[Path] = ()) -> list[str]:
    """Every folder and file that workers may read.

    Args:
        more: folders that hold further libraries; workers import from them, too.
    """
    prefixes = [
        str(Path(prefix, name)) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")
    ]
    found = [*library_folders(), *(str(Path(path).resolve()) for path in more), *prefixes, *_SYSTEM]
    return list(dict.fromkeys(path for path in found if Path(path).exists()))

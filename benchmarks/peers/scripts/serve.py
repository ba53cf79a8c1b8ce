"""A peer's side in a process of its own: JSON lines in, JSON lines out.

    python -I serve.py SIDE < requests

The first line holds the side's settings; its reply, once the side is ready, the versions of the peer's
packages. Every further line is a request with one reply. Whatever else is printed goes to standard error.
"""

import importlib.util
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any


def load_side(name: str) -> ModuleType:
    """The module beside this file, whose folder stays off the import path: its names could hide others."""
    spec = importlib.util.spec_from_file_location(f"side_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up there
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main(name: str) -> None:
    """Answer until the requests end."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Neither a library's prints nor a child that reads gets between the two.
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)

    def say(reply: Any) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    side = load_side(name)
    with side.opened(json.loads(requests.readline())) as answer:
        say(versions(side.PACKAGES))
        for line in requests:
            say(answer(json.loads(line)))


if __name__ == "__main__":
    main(sys.argv[1])

"""Watches a rehearsed Python for attempts to reach a network; copied as `sitecustomize.py` onto its path.

Every connection or look-up that would leave the machine is refused, as where there is no network, and noted
with the file that asked: a library that swallows the refusal would otherwise stay unseen. It sees what goes
through Python's sockets, in every process that Python starts; what compiled code connects to by itself is for
the network namespace to stop, and `.pth` files of the environment run before it: `kit.package.wheel_audit`
looks for those. Then the environment's own `sitecustomize` runs, as it would without this file.
"""

import errno
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

LOG = "AIMO_GUARD_LOG"
HOOK = "start-up hook"
_LOCAL = frozenset({"", "localhost", "0.0.0.0", "::", "::1"})  # noqa: S104 - compared with, not bound to
_HOOKS = frozenset({"sitecustomize.py", "usercustomize.py"})


def install(log: Path) -> None:
    """Refuse and note attempts from now on, one line each: `kind TAB file:line TAB host`."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not event.startswith("socket."):
            return
        host = _host(event, arguments)
        if host is None or _is_local(host):
            return
        if not _is_quiet(event, arguments):
            kind, place = _asker(sys._getframe(1))
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{kind}\t{place}\t{host}\n")
        raise OSError(errno.ENETUNREACH, f"no network in a rehearsal: {host}")

    sys.addaudithook(watch)


def _host(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The host that is asked for, None where none is."""
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = arguments[1]
        # A Unix socket's address is a path, a connected socket's is None.
        return str(address[0]) if isinstance(address, tuple) and address else None
    if event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = arguments[0]
        return host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host or "")
    return None


def _is_local(host: str) -> bool:
    own = os.uname().nodename
    return host in _LOCAL or host.startswith("127.") or host in {own, own.partition(".")[0]}


def _is_quiet(event: str, arguments: tuple[Any, ...]) -> bool:
    """A datagram socket that connects sends nothing: it is how a program learns its own address."""
    import socket

    return event == "socket.connect" and arguments[0].type == socket.SOCK_DGRAM


def _asker(frame: FrameType | None) -> tuple[str, str]:
    """Whether a hook of Python's start asked, and where in the code."""
    first = ""
    while frame is not None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        place = f"{path}:{frame.f_lineno}"
        if path.name in _HOOKS and path != Path(__file__):
            return HOOK, place
        if path.name in {"site.py", "<frozen site>"} and name == "addpackage":
            return HOOK, str(frame.f_locals.get("fullname", place))
        if not first and path.name not in {"socket.py", "guard.py"}:
            first = place
        frame = frame.f_back
    return "code", first


def run_next(name: str) -> None:
    """Run the next `sitecustomize` on the path, if there is one."""
    for folder in sys.path:
        path = Path(folder) / f"{name}.py"
        if path != Path(__file__) and path.is_file():
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
            return


def _start(environment: Callable[[str], str | None]) -> None:
    log = environment(LOG)
    if log:
        install(Path(log))
    run_next(__name__)


if __name__ == "sitecustomize":
    _start(os.environ.get)

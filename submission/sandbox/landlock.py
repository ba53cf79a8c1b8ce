"""Landlock: which files a process may read and write, whoever it runs as (Linux 5.13 and later).

https://docs.kernel.org/userspace-api/landlock.html. Rights grow with the kernel's version of the interface:
from 4 on TCP is refused as well, from 6 on signals to processes outside and abstract UNIX sockets. Not
covered: names, sizes and dates of files (`stat`), and in versions 1 and 2 the truncation of a file.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from submission.sandbox.kernel import syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all machines
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK, _IOCTL_DEV = 1 << 6, 1 << 9, 1 << 11, 1 << 15
_NET_TCP = 3  # bind and connect
_SCOPES = 3  # abstract UNIX sockets and signals
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | _IOCTL_DEV
"""Those that a rule on a file, not a folder, may name; 1 << 14 is truncation."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The kernel's version of the interface; OSError where it has none, or it is switched off."""
    return syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Bind this thread and all that it starts to these files and folders; `no_new_privs` must be set.

    Args:
        readable: may be read, and mapped as code; those that do not exist are left out.
        writable: may be read and written, and what is beneath them created and removed.
    """
    handled, net, scoped = _handled(version())
    wanted = _Ruleset(handled, net, scoped)
    ruleset = syscall(
        _CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)), ctypes.c_uint32(0)
    )
    try:
        # No right to execute: what is read may be mapped as code, but no program is started.
        for path in readable:
            _allow(ruleset, path, handled & (_READ_FILE | _READ_DIR))
        never = _EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK | _IOCTL_DEV
        for path in writable:
            _allow(ruleset, path, handled & ~never)
        syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _handled(version: int) -> tuple[int, int, int]:
    """Rights that this version of the interface can refuse: to files, to the network, and scopes."""
    files = 13 + sum(version >= since for since in (2, 3, 5))
    return (1 << files) - 1, _NET_TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            rights &= _FILE_RIGHTS
        rule = _PathBeneath(rights, parent)
        syscall(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(parent)

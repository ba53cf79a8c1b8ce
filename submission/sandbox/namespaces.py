"""Namespaces: the server leaves the network and the System V IPC, each worker is alone among its processes."""

import os
from pathlib import Path

from submission.sandbox.kernel import libc_call

_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000


def leave_network() -> None:
    """Enter new network and IPC namespaces, through a new user namespace where the caller may not directly.

    For a process of one thread. The new network has a loopback interface that is down: nothing is reachable,
    this machine's own servers included.

    Raises:
        OSError: the system does not allow it.
    """
    try:
        libc_call("unshare", _CLONE_NEWNET | _CLONE_NEWIPC)
    except PermissionError:
        user, group = os.getuid(), os.getgid()
        libc_call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path("/proc/self", name).write_text(text, encoding="ascii")


def fork_alone(*, alone: bool) -> int:
    """`os.fork`; with `alone` the child is the first process of a new pid namespace.

    When the first process of a namespace ends, the kernel kills all others in it. OSError where the system
    does not allow it.
    """
    if not alone:
        return os.fork()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        libc_call("unshare", _CLONE_NEWPID)
        try:
            return os.fork()
        finally:
            # Back to our own, for the next fork; the child may not, and need not.
            if not is_first():
                libc_call("setns", own, _CLONE_NEWPID)
    finally:
        os.close(own)


def is_first() -> bool:
    """Whether this process is the first of its pid namespace, as a worker is that `fork_alone` made."""
    return os.getpid() == 1

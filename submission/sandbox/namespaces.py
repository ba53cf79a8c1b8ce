"""Namespaces: the server leaves the network and System V IPC, each worker is alone among its processes."""

import functools
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

    When the first process of a namespace ends, the kernel kills all others in it. The caller must be one that
    `submission.processes.adopt_orphans` made a parent of its children's children. OSError where the system
    does not allow it.
    """
    if not alone:
        return os.fork()
    return _fork_directly() if _can_return() else _fork_between()


def is_first() -> bool:
    """Whether this process is the first of its pid namespace, as a worker is that `fork_alone` made."""
    return os.getpid() == 1


@functools.cache
def _can_return() -> bool:
    """Whether this process may enter its own pid namespace, as it must after `unshare`: only root may."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        libc_call("setns", own, _CLONE_NEWPID)
    except OSError:
        return False
    finally:
        os.close(own)
    return True


def _fork_directly() -> int:
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        libc_call("unshare", _CLONE_NEWPID)
        child = os.fork()
        if child != 0:
            libc_call("setns", own, _CLONE_NEWPID)
        return child
    finally:
        os.close(own)


def _fork_between() -> int:
    """By a process that enters the namespace for its children, and ends: a second fork's milliseconds."""
    source, sink = os.pipe()
    between = os.fork()
    if between == 0:
        child = -1
        try:
            libc_call("unshare", _CLONE_NEWPID)
            child = os.fork()
            if child != 0:
                os.write(sink, b"%d" % child)
        except OSError as error:
            os.write(sink, b"-%d" % (error.errno or 0))
        finally:
            if child != 0:
                os._exit(0)
        os.close(source)
        os.close(sink)
        return 0
    os.close(sink)
    os.waitpid(between, 0)
    said = os.read(source, 32)  # not until its end: the child holds the other end for a moment more
    os.close(source)
    child = int(said or b"-0")
    if child <= 0:
        raise OSError(-child, f"pid namespace: {os.strerror(-child)}")
    return child

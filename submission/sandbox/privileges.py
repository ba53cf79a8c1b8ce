"""What root gives up in a worker: its capabilities, and its user where another may read the installation."""

import ctypes
import os

from submission.processes import prctl
from submission.sandbox.kernel import libc_call

FIRST_UID = 0x70000000
"""Above what distributions, containers and systemd hand out (up to 0x6fffffff)."""
MAX_SLOTS = 64
_CAPSET_VERSION = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38


def own_uid(server: int, slot: int) -> int:
    """A user that nobody else has: one for each worker of each server (a process id has 22 bits)."""
    assert 0 <= slot < MAX_SLOTS
    return FIRST_UID + ((server & 0x3FFFFF) * MAX_SLOTS) + slot


def become(uid: int) -> None:
    """Change to a user (and a group of the same number) for good; PermissionError where not root."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Give up every capability for good; without effect for who has none."""
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # beyond the kernel's last one, or nothing to drop
            break
    header = (ctypes.c_uint32 * 2)(_CAPSET_VERSION, 0)
    libc_call("capset", header, (ctypes.c_uint32 * 6)())


def forbid_new_privileges() -> None:
    """No program started from here on gains anything by set-user-id; seccomp and Landlock need it."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)

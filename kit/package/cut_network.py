"""Run a command without a network: `python cut_network.py COMMAND...` (a script for `kit.package.offline`).

It enters a new network namespace (a new user namespace first, where the caller is not root), brings the
loopback interface up by ioctl, since the organiser's gateway talks over it and the `ip` tool is often absent,
and becomes the command. Exit code 97: the system does not allow it. Only the standard library is used, so
that any Python can run it.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

REFUSED = 97
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter() -> None:
    """Leave this machine's network; OSError where the system does not allow it."""
    try:
        _unshare(_CLONE_NEWNET)
    except PermissionError:
        user, group = os.getuid(), os.getgid()
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(handle, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def main() -> None:
    """Enter the namespace and become the command given as arguments."""
    try:
        enter()
    except (OSError, AttributeError) as error:
        sys.stderr.write(f"cannot cut the network: {error}\n")
        sys.exit(REFUSED)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  (an argument list, and no shell is wanted)


if __name__ == "__main__":
    main()

"""Run a command without a network: `python cut_network.py [--read-only FOLDER AT] COMMAND...` (a script).

It enters a new network namespace (a new user namespace first, where the caller is not root), brings the
loopback interface up by ioctl, since the organiser's gateway talks over it and the `ip` tool is often absent,
and becomes the command. With `--read-only` the folder is found at AT, where nobody can write into it, and its
own place is empty, as the contest's machine has it; both hold for the command alone. Exit code 97: the system
does not allow it. Only the standard library is used, so that any Python can run it.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

REFUSED = 97
READ_ONLY = "--read-only"
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_MS_RDONLY = 1
_MS_REMOUNT = 32
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_MS_RELATIME = 1 << 21
_ST_RELATIME = 4096


def _unshare(flags: int) -> None:
    _call("unshare", flags)


def _mount(source: str, target: str, flags: int, kind: str = "none", options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())


def _call(name: str, *arguments: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, name)
    if name == "mount":
        function.argtypes = (*(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def enter(*, mounts: bool = False) -> None:
    """Leave this machine's network, and its mounts if asked; OSError where the system does not allow it."""
    spaces = _CLONE_NEWNET | (_CLONE_NEWNS if mounts else 0)
    try:
        _unshare(spaces)
    except PermissionError:
        user, group = os.getuid(), os.getgid()
        _unshare(_CLONE_NEWUSER | spaces)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(handle, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def show_read_only(folder: str, at: str) -> None:
    """Have `folder` at the empty folder `at`, read-only, and nothing at its own place; OSError where refused.

    Only after `enter` with `mounts`: what is mounted here is then nobody else's.
    """
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    _mount(folder, at, _MS_BIND)
    # A mount's other restrictions may not be taken off by a user namespace: they are given again.
    status = os.statvfs(at).f_flag
    kept = status & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    kept |= _MS_RELATIME if status & _ST_RELATIME else 0
    _mount("none", at, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)
    _mount("tmpfs", folder, _MS_RDONLY, "tmpfs", "size=4k")


def main() -> None:
    """Enter the namespaces and become the command given as arguments."""
    arguments = sys.argv[1:]
    try:
        if arguments[0] == READ_ONLY:
            enter(mounts=True)
            show_read_only(*arguments[1:3])
            arguments = arguments[3:]
        else:
            enter()
    except (OSError, AttributeError) as error:
        sys.stderr.write(f"cannot cut the network: {error}\n")
        sys.exit(REFUSED)
    os.execvp(arguments[0], arguments)  # noqa: S606  (an argument list, and no shell is wanted)


if __name__ == "__main__":
    main()

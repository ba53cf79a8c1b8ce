"""A seccomp filter: system calls that model-written Python has no use for are refused with EPERM.

Refused: new processes and programs (threads are allowed), sockets but for connected stream pairs, signals to
others, tracing, memory that no limit counts (memfd, System V), io_uring (which would pass by the filter),
owners, modes and dates of files, namespaces, mounts and all administration. The calls of x86_64 and aarch64
are known; elsewhere the layer is missing.
"""

import ctypes
import errno
import os
import platform
import struct

from submission.sandbox.kernel import libc_call

# Numbers on (x86_64, aarch64); None where that machine has no such call. arch/x86/entry/syscalls/
# syscall_64.tbl and include/uapi/asm-generic/unistd.h of the kernel.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "tkill": (200, 130),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "truncate": (76, 45),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "ioperm": (173, None),
    "iopl": (172, None),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "fanotify_init": (300, 262),
}
# Allowed with some arguments only; see `_program`.
CHECKED: dict[str, tuple[int, int]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "socketpair": (53, 199),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "prctl": (157, 167),
}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AND = 0x54
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_CLONE_THREAD = 0x00010000
_SOCK_TYPE, _SOCK_STREAM = 0xF, 1
# Ways to have the kernel send a signal to a process of one's choice, and to type on a terminal.
_FCNTL_REFUSED = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_IOCTL_REFUSED = (0x8901, 0x8902, 0x5412)  # FIOSETOWN, SIOCSPGRP, TIOCSTI
_PRCTL_REFUSED = (1,)  # PR_SET_PDEATHSIG: the worker is to end with its server
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

Step = tuple[int, int, int, int]
"""One instruction: operation, steps to skip when true, when false, operand."""


def supported() -> str:
    """Why this machine has no filter; empty where it has one."""
    machine = platform.machine()
    if machine not in _AUDIT or struct.calcsize("P") != 8:
        return f"the system calls of {machine} are not known"
    return ""


def apply() -> None:
    """Put the filter over this process for good; OSError where the kernel has none. `no_new_privs` is set."""
    program = _program(platform.machine(), os.getpid())
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    wanted = Program(len(program), ctypes.cast(buffer, ctypes.c_void_p))
    libc_call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(wanted), 0, 0)


def _program(machine: str, pid: int) -> list[Step]:
    column = 0 if machine == "x86_64" else 1
    refuse = _ERRNO | errno.EPERM
    # struct seccomp_data: number, architecture, instruction pointer, six arguments of 8 bytes.
    steps: list[Step] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
    ]
    if machine == "x86_64":
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            steps += [(_EQUAL, 0, 1, numbers[column] or 0), (_RETURN, 0, 0, refuse)]

    def check(name: str, *body: Step) -> None:
        steps.append((_EQUAL, 0, len(body), CHECKED[name][column]))
        steps.extend(body)

    def argument(index: int) -> Step:  # its lower half: all that the calls below look at
        return (_LOAD, 0, 0, 16 + 8 * index)

    allow, refused = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse)
    check("clone", argument(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refused)
    # Its flags lie in memory, where no filter sees them; the C library then takes clone.
    check("clone3", (_RETURN, 0, 0, _ERRNO | errno.ENOSYS))
    # Connected ones, since others can send to any named socket.
    check("socketpair", argument(1), (_AND, 0, 0, _SOCK_TYPE), (_EQUAL, 0, 1, _SOCK_STREAM), allow, refused)
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        check(name, argument(0), (_EQUAL, 0, 1, pid), allow, refused)
    check("prlimit64", argument(0), (_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, pid), allow, refused)
    for name, index, values in (
        ("fcntl", 1, _FCNTL_REFUSED),
        ("ioctl", 1, _IOCTL_REFUSED),
        ("prctl", 0, _PRCTL_REFUSED),
    ):
        tests: list[Step] = [
            step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, refuse))
        ]
        check(name, argument(index), *tests, allow)
    steps.append(allow)
    return steps

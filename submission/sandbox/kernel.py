"""Linux calls that Python 3.11 has no function for, by ctypes."""

import ctypes
import os
from typing import Any


def libc_call(name: str, *arguments: Any) -> int:
    """Call a function of the C library; OSError with the kernel's reason where it returns a negative."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: Any) -> int:
    """Make a system call by its number, for those that the C library has no function for."""
    return libc_call("syscall", ctypes.c_long(number), *arguments)

"""What holds a worker: each layer is tried once in a throwaway fork, and what is missing is named.

A layer counts as present when it was applied and what it is to refuse was refused. `confine` then applies
exactly these to every worker; one that fails there ends the worker, it is never left out in silence.
"""

import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from submission.processes import adopt_orphans, prctl
from submission.sandbox import landlock, limits, namespaces, privileges, seccomp

GROUP, LIMITS, CAPABILITIES, NO_NEW_PRIVILEGES = (
    "process group",
    "rlimits",
    "no capabilities",
    "no new privileges",
)
OWN_USER, SECCOMP, LANDLOCK = "own user", "seccomp", "landlock"
NETWORK, PIDS = "network namespace", "pid namespace"
LAYERS = (
    GROUP,
    LIMITS,
    CAPABILITIES,
    NO_NEW_PRIVILEGES,
    NETWORK,
    PIDS,
    OWN_USER,
    SECCOMP,
    LANDLOCK,
)
ALWAYS = frozenset({GROUP, LIMITS})
"""Those that every Linux has; they cannot be left out."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_PR_SET_PDEATHSIG = 1
_MAX_PROCESSES = 128
_NO_PROCESS_LIMIT = None


@dataclass(frozen=True)
class Setup:
    """All that a server is told; goes to it as JSON.

    Args:
        folder: the server's own, in which each worker gets one.
        readable: folders and files that workers may read: the Python installation and the system's libraries.
        preload: modules to import before the first fork.
        memory_mb: address space (MiB) that a worker may add.
        disk_mb: MiB that a worker's folder may hold.
        output_bytes: bytes of output that a call shows.
        without: layers to leave out though the system has them.
    """

    folder: str
    readable: tuple[str, ...]
    preload: tuple[str, ...]
    memory_mb: int
    disk_mb: int
    output_bytes: int
    without: tuple[str, ...] = ()

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """From JSON, which knows no tuples."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)


def probe(setup: Setup) -> dict[str, str]:
    """Find which layers this system has, and enter those that the server itself is in (the network's).

    Returns:
        Each layer's name with the reason why it is missing; an empty one where it is present.
    """
    trials: dict[str, Callable[[], None]] = {
        CAPABILITIES: privileges.drop_capabilities,
        NO_NEW_PRIVILEGES: privileges.forbid_new_privileges,
        NETWORK: namespaces.leave_network,
        PIDS: _try_pids,
        OWN_USER: lambda: _try_own_user(setup),
        SECCOMP: _try_seccomp,
        LANDLOCK: lambda: _try_landlock(setup),
    }
    found = dict.fromkeys(LAYERS, "")
    for name, trial in trials.items():
        found[name] = "switched off" if name in setup.without else _try(trial)
        if name == NETWORK and not found[name]:
            namespaces.leave_network()
    return found


def confine(setup: Setup, layers: Mapping[str, str], scratch: Path, server: int, slot: int) -> None:
    """Apply all present layers to this process, a fresh fork; OSError where one of them fails.

    Args:
        setup: of the server.
        layers: what `probe` found.
        scratch: this worker's folder.
        server: process id, with which the worker is to end.
        slot: number of the worker among those of this server.
    """
    present = {name for name in LAYERS if not layers[name]}
    os.setsid()
    # Should memory run out, a worker goes first. No system has to have this file.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    limits.limit_resources(setup.memory_mb, setup.disk_mb, _max_processes(present))
    if OWN_USER in present:
        os.chown(scratch, *[privileges.own_uid(server, slot)] * 2)
        privileges.become(privileges.own_uid(server, slot))
    if CAPABILITIES in present:
        privileges.drop_capabilities()
    os.chdir(scratch)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    if os.getppid() not in (server, 0):  # 0: a parent outside this pid namespace
        raise OSError("the server has ended")
    if NO_NEW_PRIVILEGES in present:
        privileges.forbid_new_privileges()
    if LANDLOCK in present:
        landlock.restrict(map(Path, setup.readable), [scratch, *map(Path, DEVICES)])
    if SECCOMP in present:
        seccomp.apply()


def forks_possible(layers: Mapping[str, str]) -> bool:
    """Whether a worker can start processes at all."""
    return bool(layers[SECCOMP])


def _max_processes(present: set[str]) -> int | None:
    if OWN_USER in present:
        return _MAX_PROCESSES
    if os.geteuid() == 0 or SECCOMP in present:  # without effect; not needed
        return _NO_PROCESS_LIMIT
    return _own_tasks() + _MAX_PROCESSES


def _own_tasks() -> int:
    """Threads of this user, which is what the kernel's limit counts."""
    total, own = 0, os.getuid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == own:
                    total += sum(1 for _ in (entry / "task").iterdir())
    return total


def _try(trial: Callable[[], None]) -> str:
    """Run it in a fork: the reason why it failed, empty where it did not."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        reason = "the trial of it failed"
        try:
            trial()
            reason = ""
        except (OSError, AttributeError) as error:  # AttributeError: a C library without the function
            reason = str(error) or type(error).__name__
        finally:
            os.write(sink, json.dumps(reason).encode("ascii"))
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return str(json.loads(said)) if said else "the trial of it crashed"


def _try_pids() -> None:
    adopt_orphans()
    pid = namespaces.fork_alone(alone=True)
    if pid == 0:
        os._exit(0 if namespaces.is_first() else 1)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise OSError("had no effect")


def _try_own_user(setup: Setup) -> None:
    if os.geteuid() != 0:
        raise OSError("needs root")
    privileges.become(privileges.own_uid(os.getppid(), privileges.MAX_SLOTS - 1))
    os.chdir(setup.folder)
    for path in setup.readable:
        try:
            if Path(path).is_dir():
                os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        except PermissionError:
            raise OSError(f"another user than root cannot read {path}") from None


def _try_seccomp() -> None:
    if reason := seccomp.supported():
        raise OSError(reason)
    privileges.forbid_new_privileges()
    seccomp.apply()
    with contextlib.suppress(PermissionError):
        if os.fork() == 0:
            os._exit(0)
        raise OSError("had no effect")


def _try_landlock(setup: Setup) -> None:
    privileges.forbid_new_privileges()
    landlock.restrict(map(Path, setup.readable), [Path(setup.folder), *map(Path, DEVICES)])
    with contextlib.suppress(PermissionError):
        os.close(os.open("/proc/self/status", os.O_RDONLY))
        raise OSError("had no effect")
    ctypes.CDLL(None)  # libraries can still be loaded

"""Runs commands as the contest machine will: no network, an empty home, none of this machine's settings.

Where the system allows it the bundle is also mounted elsewhere, read-only, for the command alone (`Mounted`).
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from kit.package import cut_network
from kit.package.memory import watched
from submission.bundle import has_split_wheels, install_commands

KEPT = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TERM")
"""The only variables that a rehearsed command inherits."""
OnLine = Callable[[str], None]
# Only the loopback interface, no way out (198.51.100.0/24 is reserved: nobody is there to be disturbed),
# and the loopback works.
_PROBE = """
import errno, socket
names = [name for _, name in socket.if_nameindex()]
assert names == ["lo"], f"interfaces besides lo: {names}"
with socket.socket() as outward:
    outward.settimeout(5)
    code = outward.connect_ex(("198.51.100.1", 443))
assert code in (errno.ENETUNREACH, errno.EHOSTUNREACH), f"connecting outward gave {code}"
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
    print("only lo, no way out")
"""
# The folder is at the other place, where nothing can be written, and no longer at its own.
_MOUNT_PROBE = """
import errno, pathlib, sys
folder, at = map(pathlib.Path, sys.argv[1:])
assert any(at.iterdir()), f"{at} is empty"
assert not any(folder.iterdir()), f"{folder} still holds files"
try:
    (at / "probe").touch()
except OSError as error:
    assert error.errno == errno.EROFS, error
else:
    raise AssertionError(f"{at} can be written to")
print("mounted read-only, and gone from where it was built")
"""


def end_of(line: str, width: int) -> Text:
    """The end of a line that another program wrote, to be shown: no markup, no control characters."""
    return Text("".join(character for character in line[-width:] if character.isprintable()))


@dataclass(frozen=True, slots=True)
class Mounted:
    """A folder that a command sees at the empty folder `at`, read-only, and no longer at its own place."""

    folder: Path
    at: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: exit code (None: killed at its time limit), last lines, seconds, bytes at most."""

    code: int | None
    tail: str
    seconds: float
    memory: int


@functools.cache
def why_not_cut() -> str | None:
    """Why the network cannot be cut off on this machine, or None where it can."""
    return _why_not([sys.executable, "-I", cut_network.__file__, sys.executable, "-I", "-c", _PROBE])


@functools.cache
def why_not_mounted() -> str | None:
    """Why a bundle cannot be mounted read-only for a command alone, or None where it can."""
    with tempfile.TemporaryDirectory() as scratch:
        mounted = Mounted(Path(scratch) / "folder", Path(scratch) / "at")
        mounted.folder.mkdir()
        mounted.at.mkdir()
        (mounted.folder / "file").touch()
        return _why_not([*_launcher(mounted), sys.executable, "-I", "-c", _MOUNT_PROBE, *_places(mounted)])


def _why_not(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _launcher(mounted: Mounted | None) -> list[str]:
    command = [sys.executable, "-I", cut_network.__file__]
    return [*command, cut_network.READ_ONLY, *_places(mounted)] if mounted else command


def _places(mounted: Mounted) -> list[str]:
    return [str(mounted.folder), str(mounted.at)]


def run_offline(
    command: Sequence[str | Path],
    *,
    home: Path,
    cwd: Path | None = None,
    on_line: OnLine | None = None,
    timeout: float = 3600.0,
    extra: Mapping[str, str] | None = None,
    mounted: Mounted | None = None,
) -> Finished:
    """Run a command with the network cut off where the system allows it (`why_not_cut` tells).

    Args:
        home: a folder that becomes HOME, and holds the caches and temporary files; made if absent.
        on_line: called with each line of output (stdout and stderr) from another thread.
        timeout: seconds after which the command and all that it started are killed.
        extra: environment variables to set besides those `KEPT`.
        mounted: only where `why_not_mounted` finds no reason.
    """
    launcher = [] if why_not_cut() else _launcher(mounted)
    started = time.monotonic()
    process = subprocess.Popen(
        [*launcher, *map(str, command)],
        cwd=cwd,
        env=_environment(home) | dict(extra or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=40)
    reader = threading.Thread(target=_read, args=(process, tail, on_line), daemon=True)
    reader.start()
    code: int | None = None
    try:
        with watched(process.pid) as peak:
            code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        tail.append(f"killed after {timeout:.0f} s")
    finally:
        # The whole session: an engine's worker that outlives its parent would keep the pipe and the memory.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(10)
    return Finished(code, "\n".join(tail), time.monotonic() - started, peak.memory)


def _environment(home: Path) -> dict[str, str]:
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _read(process: subprocess.Popen[str], tail: deque[str], on_line: OnLine | None) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        tail.append(line.rstrip("\n"))
        if on_line:
            on_line(line.rstrip("\n"))


def probe(python: Path, home: Path, mounted: Mounted | None = None) -> str:
    """Prove from inside that the network is off and the bundle read-only; ValueError when one is not."""
    outcomes = [_probe([python, "-I", "-c", _PROBE], home, mounted, "the network is not off")]
    if mounted:
        command = [str(python), "-I", "-c", _MOUNT_PROBE, *_places(mounted)]
        outcomes.append(_probe(command, home, mounted, "the bundle is not mounted as at the contest"))
    return "; ".join(outcomes)


def _probe(command: Sequence[str | Path], home: Path, mounted: Mounted | None, failure: str) -> str:
    done = run_offline(command, home=home, timeout=60, mounted=mounted)
    if done.code != 0:
        raise ValueError(f"{failure}: {done.tail.splitlines()[-1] if done.tail else done.code}")
    return done.tail.strip()


def install_offline(
    bundle: Path,
    env_dir: Path,
    python: str,
    *,
    home: Path | None = None,
    on_line: OnLine | None = None,
    extra: Mapping[str, str] | None = None,
    mounted: Mounted | None = None,
) -> Path:
    """Install a bundle's wheels into a new, empty environment without a network; returns its Python.

    Args:
        env_dir: folder of the environment; what is there is removed.
        python: the Python that makes it; its pip does the install.
        home: HOME of the install; beside the environment if None.
        extra: environment variables, as for `run_offline`.
        mounted: where the commands find the bundle, as for `run_offline`.

    Raises:
        ValueError: a command failed; the message ends with its last lines.
    """
    home = home or env_dir.with_name(env_dir.name + ".home")
    # As -P does: a venv.py or pip.py in the working folder must not be taken for the real one.
    variables = {"PYTHONSAFEPATH": "1", **(extra or {})}
    place = mounted.at if mounted else Path(bundle).absolute()
    split = has_split_wheels(bundle)
    for command in install_commands(place, Path(env_dir).absolute(), python, split=split):
        done = run_offline(command, home=home, on_line=on_line, extra=variables, mounted=mounted)
        if done.code != 0:
            raise ValueError(
                f"{' '.join(command[:4])} ... failed (exit code {done.code}) in the empty environment; build "
                f"the bundle again for this Python, with all its wheels:\n{done.tail}"
            )
    return Path(env_dir).absolute() / "bin" / "python"

"""The attack suite: each hostile cell is contained, the next answers at once, and nothing is left."""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from submission.sandbox import Sandbox, Session
from submission.sandbox.layers import ALWAYS, LANDLOCK, LAYERS, NETWORK, OWN_USER, PIDS, SECCOMP
from submission.settings import SandboxSettings
from tests.submission.sandbox.attacks import ATTACKS, HANGS, SLOW_ATTACKS, Attack

SETTINGS = SandboxSettings(workers=2, memory_mb=512, disk_mb=16, output_chars=2_000)
OPTIONAL = tuple(name for name in LAYERS if name not in ALWAYS)
SECONDS = 2.0
HANG_SECONDS = 0.4
"""For a cell that runs until it is ended."""


def processes(sandbox: Sandbox) -> list[psutil.Process]:
    """All that descends from a sandbox's server, the server left out."""
    server = sandbox._server
    assert server is not None
    found: list[psutil.Process] = psutil.Process(server.pid).children(recursive=True)
    return found


def settled(sandbox: Sandbox, workers: int, seconds: float = 15.0) -> bool:
    """Whether there are soon no more processes than workers, and their folders are empty."""
    server = sandbox._server
    assert server is not None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        folders = list(server._folder.iterdir())
        if len(processes(sandbox)) <= workers and len(folders) <= workers:
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: look again
                return all(not any(folder.iterdir()) for folder in folders)
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def held() -> Iterator[tuple[Sandbox, Session]]:
    """A sandbox with every layer that this system has."""
    with Sandbox(SETTINGS) as sandbox, sandbox.session() as session:
        yield sandbox, session


@pytest.fixture(scope="module")
def bare() -> Iterator[tuple[Sandbox, Session]]:
    """One with process groups and rlimits alone."""
    with Sandbox(SETTINGS, without=OPTIONAL) as sandbox, sandbox.session() as session:
        assert all(sandbox.layers[name] for name in OPTIONAL)
        yield sandbox, session


@contextlib.contextmanager
def growth(process: psutil.Process) -> Iterator[list[int]]:
    """How many bytes a process holds more than at the start, looked at until the block ends."""
    start = process.memory_info().rss
    grown = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            grown.append(process.memory_info().rss - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield grown
    finally:
        ended.set()
        thread.join()


def contained(
    sandbox: Sandbox, session: Session, code: str, expected: str, seconds: float | None = None
) -> None:
    if seconds is None:
        seconds = HANG_SECONDS if expected in HANGS else SECONDS
    result = session.run_sync("x = 1; x")
    assert result.value == "1"
    began = time.monotonic()
    result = session.run_sync(code, timeout=seconds)
    assert time.monotonic() - began < seconds + 1.5
    assert expected in result.text
    assert len(result.text) < 6_000
    began = time.monotonic()
    after = session.run_sync("6 * 7")
    assert after.value == "42"
    assert time.monotonic() - began < 1.0 or "starts anew" in result.error
    # What was killed has lost its state; what was not has kept it.
    assert ("NameError" in session.run_sync("x").error) == result.killed
    session.reset()
    assert session.run_sync("6 * 7").value == "42"
    assert settled(sandbox, workers=1)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_contained(held: tuple[Sandbox, Session], name: str) -> None:
    sandbox, session = held
    attack: Attack = ATTACKS[name]
    if attack.bare is None and (missing := [one for one in (SECCOMP, LANDLOCK) if sandbox.layers[one]]):
        pytest.skip(f"this system has no {' and no '.join(missing)}")
    contained(sandbox, session, attack.code, attack.held)
    assert not list(Path("/tmp").glob("*escaped"))


# What ends in the same way with all layers is held by the same one, and was seen above.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if attack.bare == attack.held else ())
        for name, attack in ATTACKS.items()
        if attack.bare is not None
    ],
)
def test_an_attack_is_contained_with_rlimits_alone(bare: tuple[Sandbox, Session], name: str) -> None:
    sandbox, session = bare
    contained(sandbox, session, ATTACKS[name].code, ATTACKS[name].bare or "")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_ATTACKS)
def test_a_gigabyte_is_cut_at_its_source(held: tuple[Sandbox, Session], name: str) -> None:
    sandbox, session = held
    server = psutil.Process(sandbox._server.pid if sandbox._server else 0)
    with growth(psutil.Process()) as ours, growth(server) as theirs:
        contained(sandbox, session, SLOW_ATTACKS[name].code, SLOW_ATTACKS[name].held, seconds=60)
    # Of a gigabyte. What other tests loaded before (torch alone takes hundreds of MB) is not counted.
    assert max(ours) < 128 << 20
    assert max(theirs) < 128 << 20


def test_what_is_held_for_a_moment_is_seen() -> None:
    with growth(psutil.Process()) as grown:
        held = b"x" * (256 << 20)
        time.sleep(0.2)
        del held
    assert max(grown) > 200 << 20


def test_what_lies_beside_is_not_read(held: tuple[Sandbox, Session], tmp_path: Path) -> None:
    sandbox, session = held
    if sandbox.layers[LANDLOCK]:
        pytest.skip(f"no Landlock: {sandbox.layers[LANDLOCK]}")
    secret = secrets.token_hex(16)
    answers = tmp_path / "reference.csv"
    answers.write_text(f"id,answer\n1,{secret}\n")
    bundle = Path(__file__).resolve().parents[3] / "submission" / "settings.py"
    for path in (answers, bundle):
        for code in (
            f"open({str(path)!r}).read()",
            f"import os\nos.symlink({str(path)!r}, 'link')\nopen('link').read()",
            f"import os\nos.link({str(path)!r}, 'hard')\nopen('hard').read()",
            f"import ctypes\nlibc = ctypes.CDLL(None)\nfd = libc.open({os.fsencode(path)!r}, 0)\n"
            "if fd < 0: raise PermissionError",
        ):
            session.reset()
            result = session.run_sync(code)
            assert "Error" in result.error, code
            assert secret not in result.text
    session.reset()
    assert settled(sandbox, workers=1)


def test_the_environment_is_empty(held: tuple[Sandbox, Session], bare: tuple[Sandbox, Session]) -> None:
    for _, session in (held, bare):
        result = session.run_sync("import os\nsorted(os.environ)")
        assert set(eval(result.value)) <= {  # noqa: S307  # a list of names, from our own code
            "HOME", "LANG", "LD_LIBRARY_PATH", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
            "PATH", "PWD", "PYTHONHASHSEED", "TMPDIR", "LC_CTYPE",
        }  # fmt: skip


@pytest.mark.parametrize("layer", [SECCOMP, PIDS, NETWORK, OWN_USER])
@pytest.mark.parametrize(
    "name",
    [
        "daemons",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("kill_parent", "localhost", "exit")),
    ],
)
def test_one_layer_less_still_leaves_nothing(layer: str, name: str) -> None:
    settings = SETTINGS.model_copy(update={"preload": ("math",)})
    with Sandbox(settings, without=[layer]) as sandbox, sandbox.session() as session:
        assert sandbox.layers[layer] == "switched off"
        session.run_sync(ATTACKS[name].code, timeout=SECONDS)
        assert session.run_sync("6 * 7").value == "42"
        session.reset()
        assert session.run_sync("6 * 7").value == "42"
        assert settled(sandbox, workers=1)


@pytest.mark.slow
def test_a_fork_bomb_is_held_by_the_number_of_processes() -> None:
    settings = SETTINGS.model_copy(update={"preload": ("math",)})
    with Sandbox(settings, without=[SECCOMP]) as sandbox, sandbox.session() as session:
        if os.geteuid() == 0 and sandbox.layers[OWN_USER]:
            pytest.skip(f"root without a user of its own has no limit: {sandbox.layers[OWN_USER]}")
        code = ATTACKS["fork_bomb"].code
        for after in (
            code,
            f"try:\n  {code.replace(chr(10), chr(10) + '  ')}\nexcept OSError: pass\nwhile True: pass",
        ):
            result = session.run_sync(after, timeout=SECONDS)
            assert result.error
            began = time.monotonic()
            assert session.run_sync("6 * 7").value == "42"
            assert time.monotonic() - began < 1.0
        assert settled(sandbox, workers=1)

"""The guard over Python's sockets, and the memory of a command with all that it started."""

import shutil
import sys
from pathlib import Path

import pytest

from kit.package import guard
from kit.package.offline import Finished, run_offline

# Each line tries one way out and says what came of it.
TRIES = {
    "socket.create_connection(('203.0.113.9', 443), timeout=3)": "203.0.113.9",
    "socket.getaddrinfo('models.example', 443)": "models.example",
    "socket.gethostbyname('models.example')": "models.example",
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.9', 53))": "203.0.113.9",
    "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 443))": "2001:db8::1",
    "urllib.request.urlopen('http://models.example/x')": "models.example",
}


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    (tmp_path / "hooks").mkdir()
    shutil.copyfile(guard.__file__, tmp_path / "hooks" / "sitecustomize.py")
    return tmp_path / "hooks"


def run(hooks: Path, code: str, *path: Path) -> tuple[Finished, list[list[str]]]:
    """Run code under the guard; how it ended, and what was noted."""
    log = hooks.parent / "log"
    log.unlink(missing_ok=True)
    variables = {"PYTHONPATH": ":".join(map(str, (hooks, *path))), guard.LOG: str(log)}
    done = run_offline([sys.executable, "-c", code], home=hooks.parent / "home", extra=variables, timeout=60)
    lines = log.read_text().splitlines() if log.exists() else []
    return done, [line.split("\t") for line in lines]


def test_every_way_out_is_refused_and_noted(hooks: Path) -> None:
    code = "import socket, urllib.request\n"
    for number, attempt in enumerate(TRIES):
        code += f"try:\n    {attempt}\nexcept OSError as error:\n    print({number}, error)\n"
    done, noted = run(hooks, code)
    assert done.code == 0
    assert [line.split()[0] for line in done.tail.splitlines()] == [str(n) for n in range(len(TRIES))]
    assert done.tail.count("no network in a rehearsal") == len(TRIES)
    assert [(kind, host) for kind, _, host in noted] == [("code", host) for host in TRIES.values()]


def test_what_stays_on_the_machine_is_let_through(hooks: Path, tmp_path: Path) -> None:
    code = f"""
import os, socket
for host in ("127.0.0.1", "localhost"):
    with socket.create_server((host, 0)) as server, socket.create_connection(server.getsockname()):
        pass
with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
    server.bind({str(tmp_path / "s")!r})
    server.listen()
    client.connect({str(tmp_path / "s")!r})
a, b = socket.socketpair()
b.send(b"x"), a.recv(1)
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("8.8.8.8", 80))
except OSError as error:
    print("own address unknown:", error.errno)
"""
    done, noted = run(hooks, code)
    assert done.code == 0, done.tail
    # A datagram socket that connects sends nothing: refused, as without a network, but nobody is blamed.
    assert done.tail == "own address unknown: 101"
    assert noted == []


def test_children_are_watched_too(hooks: Path) -> None:
    inner = "import socket; socket.getaddrinfo('models.example', 443)"
    done, noted = run(hooks, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])")
    assert done.code == 0
    assert [host for _, _, host in noted] == ["models.example"]


def test_the_environments_own_hook_runs_and_is_told_from_other_code(hooks: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text(
        "import socket\nprint('own hook')\ntry:\n    socket.getaddrinfo('telemetry.example', 1)\n"
        "except OSError:\n    pass\n"
    )
    done, noted = run(hooks, "print('code')", own)
    assert done.tail.splitlines() == ["own hook", "code"]
    assert noted == [[guard.HOOK, f"{own}/sitecustomize.py:4", "telemetry.example"]]


def test_a_pth_file_is_a_hook(hooks: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "telemetry.pth").write_text("import socket; socket.getaddrinfo('telemetry.example', 1)\n")
    code = f"import site; site.addsitedir({str(own)!r})"
    done, noted = run(hooks, code)
    assert done.code == 0  # Python says that the line failed, and goes on
    assert noted == [[guard.HOOK, f"{own}/telemetry.pth", "telemetry.example"]]


def test_memory_is_that_of_all_processes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.package.memory.INTERVAL", 0.05)
    child = "held = bytearray(60 << 20); print(); input()"
    code = f"""
import subprocess, sys, time
pipes = {{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}}
children = [subprocess.Popen([sys.executable, "-c", {child!r}], **pipes) for _ in range(2)]
for child in children:
    child.stdout.readline()
time.sleep(0.3)  # both hold it
for child in children:
    child.communicate(b"\\n")
"""
    done = run_offline([sys.executable, "-c", code], home=tmp_path / "home")
    assert done.code == 0
    assert 120 << 20 < done.memory < 400 << 20

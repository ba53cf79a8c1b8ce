"""Commands without a network, and the offline install of a small bundle."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kit.package import cut_network
from kit.package.interpreter import check_runs_here
from kit.package.offline import end_of, install_offline, probe, run_offline, why_not_cut
from submission.bundle import Bundle
from tests.kit.package.made import make_bundle, make_checkpoint, make_wheel, make_wheelhouse

needs_namespace = pytest.mark.skipif(
    why_not_cut() is not None, reason=f"this machine does not let the network be cut off: {why_not_cut()}"
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@needs_namespace
def test_the_network_is_off_and_the_loopback_on(tmp_path: Path) -> None:
    assert probe(Path(sys.executable), tmp_path / "home") == "only lo, no way out"


@needs_namespace
def test_a_service_of_this_machine_is_out_of_reach(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"
        done = run_offline(python(code), home=tmp_path / "home")
    assert done.code == 1
    assert "Connection refused" in done.tail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_user_without_rights_has_it_too() -> None:
    """In a user namespace, where the system allows one: no network, and a mount that is read-only for him."""
    other = shutil.which("python3", path="/usr/bin")
    if other is None:
        pytest.skip("no Python that everybody may run")
    with tempfile.TemporaryDirectory() as name:
        folder, at, script = Path(name) / "folder", Path(name) / "at", Path(name) / "cut_network.py"
        for path in (folder, at):
            path.mkdir()
            path.chmod(0o777)
        Path(name).chmod(0o755)
        (folder / "file").touch()
        shutil.copyfile(cut_network.__file__, script)
        look = f"import os; print(os.getuid(), os.listdir({str(folder)!r}), os.listdir({str(at)!r}))"
        write = f"\ntry: open({str(at / 'x')!r}, 'w')\nexcept OSError as error: print(error.strerror)"
        command: list[str | Path] = [
            other,
            "-I",
            script,
            cut_network.READ_ONLY,
            folder,
            at,
            other,
            "-I",
            "-c",
            look + write,
        ]
        done = subprocess.run(
            command, user=65534, group=65534, extra_groups=[], capture_output=True, check=False
        )
    if done.returncode == cut_network.REFUSED:
        pytest.skip(f"this system gives users no namespaces: {done.stderr.decode()}")
    assert done.stdout.decode().splitlines() == ["65534 [] ['file']", "Read-only file system"]


def test_the_environment_is_scrubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PIP_INDEX_URL", "HF_HOME", "HF_TOKEN", "MATH_MODEL_PATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "leak")
    code = "import os; print('leaks', [k for k, v in os.environ.items() if v == 'leak'], os.environ['HOME'])"
    done = run_offline(python(code), home=tmp_path / "home", extra={"GIVEN": "yes"})
    assert done.code == 0
    assert done.tail == f"leaks [] {tmp_path / 'home'}"


def test_lines_come_as_they_are_printed_and_the_exit_code_is_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import sys; print('one'); sys.stderr.write('two\\n'); sys.exit(5)"
    done = run_offline(python(code), home=tmp_path / "home", on_line=lines.append)
    assert (done.code, lines) == (5, ["one", "two"])


@pytest.mark.slow
def test_a_command_over_its_time_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    started = time.monotonic()
    done = run_offline(python(code), home=tmp_path / "home", timeout=2)
    assert done.code is None
    assert time.monotonic() - started < 60
    child = int(done.tail.splitlines()[0])
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    house = make_wheelhouse(folder / "wheels", make_wheel(folder / "wheels"))
    return make_bundle(folder / "b", make_checkpoint(folder / "model"), house)


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """Each test's own, to be damaged."""
    return shutil.copytree(built, tmp_path / "b")


def test_a_bundle_installs_offline(bundle: Path, tmp_path: Path) -> None:
    interpreter = install_offline(bundle, tmp_path / "env", sys.executable)
    code = "import os, smallthing, sys; print(smallthing.VALUE, 'typer' in sys.modules, sys.prefix)"
    code += "; print(os.path.exists(smallthing.__cached__))"
    done = run_offline([interpreter, "-c", code], home=tmp_path / "home")
    # Compiled by the install, since the contest's processes write no bytecode.
    assert done.tail == f"42 False {tmp_path / 'env'}\nTrue"
    # Nothing of the machine's own packages is seen.
    assert run_offline([interpreter, "-c", "import pydantic"], home=tmp_path / "home").code == 1


@pytest.mark.slow
def test_the_install_runs_no_code_of_the_working_folder(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = tmp_path / "working"
    working.mkdir()
    for name in ("venv.py", "pip.py", "platform.py"):
        (working / name).write_text("from pathlib import Path\nPath('was-run').touch()\n")
    monkeypatch.chdir(working)
    check_runs_here(Bundle.open(bundle).manifest, sys.executable)
    assert install_offline(bundle, tmp_path / "env", sys.executable).exists()
    assert not (working / "was-run").exists()


def test_a_foreign_line_is_shown_as_plain_text() -> None:
    shown = end_of("from afar: [/b] \x1b[31m[red]links\r", 19)
    assert (shown.plain, shown.spans) == ("b] [31m[red]links", [])


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_damaged_wheel_fails_the_install_by_name(bundle: Path, tmp_path: Path, damage: str) -> None:
    wheel = next((bundle / "wheels").iterdir())
    if damage == "removed":
        wheel.unlink()
    else:
        make_wheel(wheel.parent, source="VALUE = 'evil'\n")
    with pytest.raises(ValueError, match="smallthing"):
        install_offline(bundle, tmp_path / "env", sys.executable)

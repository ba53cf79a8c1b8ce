"""A real Slurm of four nodes on this machine, for tests: `slurm/lab` as a fixture.

    from tests.lab import Lab, lab as lab       # in tests/slurm/conftest.py; tests there take `lab: Lab`

    job = lab.submit(folder, "slurm/distill.sbatch", "recipe.toml", flags=["--nodes=2", "--gres=gpu:2"])
    lab.wait(job, "COMPLETED")

It comes up once in a process that runs tests (5 to 10 seconds; the first time on a machine about 30, with
Debian's packages), and goes down with it. Labs of processes side by side have other numbers, and do not meet.
Tests are skipped, with the reason, where there can be none: not root, no namespaces, no packages.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "slurm" / "lab"
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


class Lab:
    """A lab that is up. Its nodes are node1 to node4, with 8 CPUs and 2 fake GPUs each.

    Args:
        number: LAB_ID.
        folder: what its scripts call LAB.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder
        self.small = folder / "small"
        """A disk that all nodes see, of 64 MiB."""

    @property
    def environment(self) -> dict[str, str]:
        """For processes that talk to this Slurm: SLURM_CONF, this Python first on PATH, one thread each."""
        kept = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "AIMO_"))
        }
        return kept | {
            "SLURM_CONF": str(self.folder / "etc" / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def command(self, *words: str | Path, cwd: Path = ROOT, more: Mapping[str, str] | None = None) -> str:
        """Run a command that talks to this Slurm; what it said. Fails the test where it fails."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=self.environment | dict(more or {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(
        self,
        folder: Path,
        script: str,
        *words: str | Path,
        flags: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
    ) -> str:
        """`sbatch FLAGS script words...` from `folder`, with the repository's code; the job's id.

        Its output is `output(folder, job)`.
        """
        environment = {"AIMO_ROOT": str(ROOT), **(more or {})}
        line = ["sbatch", "--parsable", "--output=job-%j.out", *flags, ROOT / script, *words]
        return self.command(*line, cwd=folder, more=environment)

    @staticmethod
    def output(folder: Path, job: str) -> str:
        """What the job has said so far."""
        path = folder / f"job-{job}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def state(self, job: str) -> str:
        """State of a job, such as RUNNING."""
        said = self.command("scontrol", "show", "job", "--oneliner", job)
        return said.partition("JobState=")[2].partition(" ")[0]

    def wait(self, job: str, state: str, *, seconds: float = 200, folder: Path | None = None) -> None:
        """Until a job has ended; fails the test where that is not in `state`, telling the job's output."""
        until = time.monotonic() + seconds
        while (now := self.state(job)) not in OVER:
            assert time.monotonic() < until, (
                f"job {job} is {now} after {seconds} s\n{self._told(folder, job)}"
            )
            time.sleep(0.3)
        assert now == state, f"job {job} is {now}\n{self._told(folder, job)}"

    def until(
        self,
        job: str,
        what: str,
        true: Callable[[], bool],
        *,
        seconds: float = 200,
        folder: Path | None = None,
    ) -> None:
        """Until something about a job is true; fails the test where the job ends before, or it takes long."""
        end = time.monotonic() + seconds
        while not true():
            now = self.state(job)
            assert now not in OVER and time.monotonic() < end, (
                f"job {job} is {now}, not yet: {what}\n{self._told(folder, job)}"
            )
            time.sleep(0.1)

    def node(self, action: str, number: int, *words: str) -> str:
        """`slurm/lab/node.sh`: start, kill (power off), cut, join, or enter with a command."""
        return self.command(SCRIPTS / "node.sh", action, str(number), *words, more=self.names)

    @contextlib.contextmanager
    def full_disk(self, leave: int = 400_000) -> Iterator[None]:
        """While entered, the small disk has room for so many bytes only."""
        ballast = self.small / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.small).free - leave)
        try:
            yield
        finally:
            ballast.unlink()

    @property
    def names(self) -> dict[str, str]:
        """What its scripts are told."""
        return {"LAB_ID": str(self.number), "LAB": str(self.folder)}

    def _told(self, folder: Path | None, job: str) -> str:
        return self.output(folder, job)[-6_000:] if folder else ""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab that is up; see the module's docstring."""
    if reason := impossible():
        pytest.skip(f"no Slurm lab here: {reason}")
    lock, number = _free_number()
    found = Lab(number, Path(tempfile.gettempdir()) / f"aimo-slurm-lab-{number}")
    try:
        with tempfile.TemporaryFile("w+") as said:
            # Not a pipe: the daemons inherit it, and it would never end.
            done = subprocess.run(
                [SCRIPTS / "up.sh"],
                env=os.environ | found.names,
                stdout=said,
                stderr=said,
                timeout=400,
                check=False,
            )
            said.seek(0)
            told = said.read()
        if done.returncode and "installing" in told and "timed out" not in told:
            pytest.skip(f"no Slurm lab here: its packages cannot be installed: {told[-500:]}")
        assert done.returncode == 0, told
        yield found
    finally:
        subprocess.run([SCRIPTS / "down.sh"], env=os.environ | found.names, timeout=100, check=False)
        shutil.rmtree(found.folder, ignore_errors=True)
        lock.close()


def impossible() -> str:
    """Why there can be no lab on this machine; empty where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux, for namespaces"
    tools = ("unshare", "nsenter", "ip")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        return "Slurm is not installed, and there is no apt-get to install it with"
    if missing := [tool for tool in tools[:2] if shutil.which(tool) is None]:
        return f"no {' nor '.join(missing)}"
    tried = subprocess.run(
        [str(shutil.which("unshare")), "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def _free_number() -> tuple[IO[bytes], int]:
    """A number that no other process's lab has, as long as the file is open."""
    for number in range(10, 100):
        file = (Path(tempfile.gettempdir()) / f".aimo-slurm-lab-{number}.lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return file, number
    raise AssertionError("ninety labs are up")

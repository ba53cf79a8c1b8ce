"""The rehearsal: install a bundle where nothing is installed and nothing can be fetched, and play a contest.

As at the contest the bundle lies on a read-only mount at another place than it was built at, HOME and caches
are empty, there is no network, and the server has to listen within 15 minutes of the notebook's start, the
install included. Where this machine does not allow a part of that, the record says so. It goes beside the
bundle, never into it.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from kit.package import guard
from kit.package.audit import check_contents
from kit.package.interpreter import check_machine, check_runs_here, find_python
from kit.package.offline import (
    Mounted,
    end_of,
    install_offline,
    probe,
    why_not_cut,
    why_not_mounted,
)
from kit.package.play import play
from submission.bundle import Bundle, Manifest, quick_check, verify
from submission.files import write_text
from submission.gateway.rehearsal import STARTUP_SECONDS

DEFAULT_PROBLEMS = (
    "What is 12 + 30?",
    "What is 7 times 8?",
    "Tom has 15 apples and eats 4. How many are left?",
)
UNPACKED = 5
"""An installed environment takes at most this many times its wheels' size, the wheels' copies included."""
PLACE = Path("input") / "datasets" / "someone" / "aimo-bundle"
"""Where the bundle is found, as Kaggle mounts a dataset."""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step."""

    name: str
    seconds: float
    outcome: str


@dataclass(slots=True)
class Record:
    """What a rehearsal did; written to `path` as JSON.

    `install_seconds`, `served_seconds` and `ready_seconds` are the start-up: the install, and from the
    command's start until the server listened and the model was loaded. `memory_mib` is of all processes
    together, at most, looked at twice a second. `outward` lists who reached for a network, and was refused.
    """

    path: Path
    manifest: str
    target: str
    python: str
    network: str
    mount: str
    problems: list[str]
    answers: list[int] = field(default_factory=list)
    install_seconds: float | None = None
    served_seconds: float | None = None
    ready_seconds: float | None = None
    memory_mib: int | None = None
    outward: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def rehearse_bundle(
    bundle: Path,
    *,
    problems: Sequence[str] = DEFAULT_PROBLEMS,
    python: str | None = None,
    time_limit: float = 600.0,
    start_limit: float = STARTUP_SECONDS,
    console: Console | None = None,
) -> Record:
    """Rehearse a bundle; returns the record, which is also written to `BUNDLE.rehearsal.json`.

    Args:
        python: the target's Python; its version must be the bundle's. By default the first one found.
        time_limit: seconds for the contest of these problems, loading included.
        start_limit: seconds that install and start may take until the server listens.

    Raises:
        ValueError: the bundle is not whole, holds what it should not, cannot run here, does not install,
            starts too late, reaches for a network as Python starts, or gives no valid answer.
    """
    bundle = Path(bundle).absolute()
    opened = Bundle.open(bundle)
    if not problems or not all(text.strip() for text in problems):
        raise ValueError("a problem is empty; give its text with --problem")
    python = python or find_python(check_machine(opened.manifest.data))
    version = check_runs_here(opened.manifest, python)
    cut, mounted = why_not_cut(), why_not_cut() or why_not_mounted()
    record = Record(
        path=bundle.with_name(bundle.name + ".rehearsal.json"),
        manifest=opened.manifest.digest,
        target=str(opened.manifest.data["target"]),
        python=version,
        network=f"NOT cut off, Python's sockets refused: {cut}" if cut else "cut off (network namespace)",
        mount=f"NOT read-only, where it was built: {mounted}" if mounted else f"read-only, at {PLACE}",
        problems=list(problems),
    )
    # A failed rehearsal must not leave the record of an earlier, good one.
    record.path.unlink(missing_ok=True)
    console = console or Console(stderr=True, emoji=False)
    if cut or mounted:
        console.print(f"NOTE: network {record.network}; mount {record.mount}", markup=False)
    with tempfile.TemporaryDirectory(prefix="aimo-rehearsal-") as scratch:
        _check_space(opened.manifest, Path(scratch))
        _Rehearsal(record, opened, Path(scratch), python, console).run(time_limit, start_limit)
        # Before the environment is removed, which takes a while.
        _write(record)
    return record


def _write(record: Record) -> None:
    content = {**asdict(record), "path": None, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    kept = {key: value for key, value in content.items() if value is not None}
    write_text(record.path, json.dumps(kept, indent=1) + "\n")


class _Rehearsal:
    """One rehearsal under way: its steps fill the record."""

    def __init__(self, record: Record, opened: Bundle, scratch: Path, python: str, console: Console) -> None:
        self.record, self.opened, self.python, self.console = record, opened, python, console
        self.scratch, self.home, self.environment = scratch, scratch / "home", scratch / "environment"
        self.log = scratch / "outward.log"
        self.mounted: Mounted | None = None
        if why_not_cut() is None and why_not_mounted() is None:
            self.mounted = Mounted(opened.root, scratch / PLACE)
            self.mounted.at.mkdir(parents=True)
        hooks = scratch / "guard"
        hooks.mkdir()
        shutil.copyfile(guard.__file__, hooks / "sitecustomize.py")
        self.watching = {"PYTHONPATH": str(hooks), guard.LOG: str(self.log)}

    def run(self, time_limit: float, start_limit: float) -> None:
        """Every step in turn; ValueError from the first that fails."""
        self._step("verify the bundle", lambda _: check_whole(self.opened))
        self._step("look at what it holds", lambda _: check_contents(self.opened))
        with contextlib.nullcontext() if self.mounted else _not_writable(self.opened.root):
            self._step("install into an empty environment", self._install)
            if why_not_cut() is None:
                place = self.environment / "bin" / "python"
                self._step("prove the isolation", lambda _: probe(place, self.home, self.mounted))
            count = len(self.record.problems)
            self._step(f"play {count} problems through the gateway", lambda on: self._play(time_limit, on))
        self._step("check the start-up", lambda _: check_start(self.record, start_limit))
        self._step("look for reaches to a network", lambda _: check_outward(self.record, self.log))
        self._step("check that the bundle is unchanged", lambda _: check_unchanged(self.opened.root))

    def _step(self, name: str, work: Callable[[Callable[[str], None]], str]) -> None:
        started = time.monotonic()
        with self.console.status(name) as status:
            outcome = work(lambda line: status.update(Text(f"{name}: ") + end_of(line, 100)))
        step = Step(name, round(time.monotonic() - started, 1), outcome)
        self.record.steps.append(step)
        self.console.print(f"{name}: {outcome} ({step.seconds:.1f} s)", markup=False, highlight=False)

    def _install(self, on_line: Callable[[str], None]) -> str:
        started = time.monotonic()
        install_offline(
            self.opened.root,
            self.environment,
            self.python,
            home=self.home,
            on_line=on_line,
            extra=self.watching,
            mounted=self.mounted,
        )
        self.record.install_seconds = round(time.monotonic() - started, 1)
        lines = (self.opened.root / "requirements.txt").read_text(encoding="utf-8").splitlines()
        return f"{sum('==' in line for line in lines)} wheels, no index"

    def _play(self, time_limit: float, on_line: Callable[[str], None]) -> str:
        played = play(
            self.opened,
            self.environment / "bin" / "python",
            self.record.problems,
            time_limit,
            self.scratch,
            on_line=on_line,
            extra=self.watching,
            mounted=self.mounted,
        )
        self.record.answers = list(played.answers)
        self.record.served_seconds, self.record.ready_seconds = played.served, played.ready
        self.record.memory_mib = played.memory >> 20
        answers = ", ".join(map(str, played.answers))
        return f"answers {answers} from {played.tokens} tokens; {self.record.memory_mib} MiB at most"


def _check_space(manifest: Manifest, folder: Path) -> None:
    wheels = [entry.size for entry in manifest.entries if entry.path.startswith("wheels/")]
    needed = UNPACKED * sum(wheels)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder.parent} has {free / 1e9:.1f} GB free and the rehearsal may need {needed / 1e9:.1f} GB; "
            "free some space or set TMPDIR to another disk"
        )


@contextlib.contextmanager
def _not_writable(folder: Path) -> Iterator[None]:
    """Take the permission to write into a bundle while the block runs, where nothing can be mounted.

    It binds everybody but root; for root the check that the bundle is unchanged has to do. What belongs to
    somebody else is left as it is.
    """
    found = {path: path.stat() for path in [folder, *folder.rglob("*")]}
    modes = {path: status.st_mode & 0o7777 for path, status in found.items() if status.st_uid == os.geteuid()}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield
    finally:
        for path, mode in modes.items():
            # What the run has removed is found by the check afterwards.
            if os.access(path, os.F_OK):
                path.chmod(mode)


def check_whole(bundle: Bundle) -> str:
    """Verify every file; ValueError naming the first that differs."""
    problems = verify(bundle.root)
    if problems:
        first = problems[0]
        raise ValueError(
            f"bundle {bundle.root} is not whole: {first.path} {first.message} ({len(problems)} in all)"
        )
    return f"{len(bundle.manifest.entries)} files as built"


def check_start(record: Record, limit: float) -> str:
    """ValueError when install and start took longer than the gateway waits for the server."""
    if record.install_seconds is None or record.served_seconds is None:
        raise ValueError("the contest did not say when its server listened; build the bundle again")
    taken = record.install_seconds + record.served_seconds
    if taken > limit:
        raise ValueError(
            f"the server listened {taken:.0f} s after the start ({record.install_seconds:.0f} s of them "
            f"for the install) and the gateway waits {limit:.0f} s; take fewer wheels (kit.package --explain)"
        )
    ready = "" if record.ready_seconds is None else f", model {record.ready_seconds:.1f} s after its start"
    return f"served {taken:.1f} s after the notebook's start, {limit:.0f} allowed{ready}"


def check_outward(record: Record, log: Path) -> str:
    """Note who reached for a network; ValueError where a hook of Python's start did."""
    lines = sorted(set(log.read_text(encoding="utf-8").splitlines())) if log.exists() else []
    attempts = [line.split("\t", 2) for line in lines]
    record.outward = [f"{place} asked for {host}" for _, place, host in attempts]
    for kind, place, host in attempts:
        if kind == guard.HOOK:
            raise ValueError(
                f"{place} asks for {host} whenever Python starts; leave out the wheel that brings it, since "
                "every process of the contest would wait for it"
            )
    return "; ".join(record.outward[:3]) or "none"


def check_unchanged(bundle: Path) -> str:
    """ValueError when the run left or changed a file in the bundle, which a read-only mount would refuse."""
    problems = quick_check(bundle)
    if problems:
        raise ValueError(
            f"the run wrote into the bundle ({problems[0].path}); at the contest it is mounted read-only"
        )
    return "nothing written into it"

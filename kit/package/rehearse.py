"""The rehearsal: install a bundle where nothing is installed and nothing can be fetched, and solve a problem.

Each step is a function of its own, so that others can run the install or the offline command alone
(`kit.package.offline`). The record goes beside the bundle, never into it.
"""

import csv
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from kit.package.offline import end_of, install_offline, probe, run_offline, why_not_cut
from kit.package.targets import Target
from submission.bundle import Bundle, Manifest, quick_check, run_command, verify
from submission.files import write_text
from submission.settings import ContestSettings

DEFAULT_PROBLEM = "What is 12 + 30?"
PROBLEM_ID = "rehearsal"
GRACE = 300.0
"""Seconds beyond the contest's time limit after which the run is killed: it should have ended by itself."""
UNPACKED = 5
"""An installed environment takes at most this many times its wheels' size, the wheels' copies included."""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step."""

    name: str
    seconds: float
    outcome: str


@dataclass(slots=True)
class Record:
    """What a rehearsal did; written to `path` as JSON."""

    path: Path
    manifest: str
    target: str
    python: str
    network: str
    problem: str
    answer: int | None = None
    steps: list[Step] = field(default_factory=list)


def rehearse_bundle(
    bundle: Path,
    *,
    problem: str = DEFAULT_PROBLEM,
    python: str,
    time_limit: float = 600.0,
    console: Console | None = None,
) -> Record:
    """Rehearse a bundle; returns the record, which is also written to `BUNDLE.rehearsal.json`.

    Args:
        python: the target's Python; its version must be the bundle's.
        time_limit: seconds for the contest of this one problem, loading included.

    Raises:
        ValueError: the bundle is not whole, cannot run here, does not install, or gives no valid answer.
    """
    bundle = Path(bundle).absolute()
    opened = Bundle.open(bundle)
    if not problem.strip():
        raise ValueError("the problem is empty; give its text with --problem")
    version = check_runs_here(opened.manifest, python)
    reason = why_not_cut()
    record = Record(
        path=bundle.with_name(bundle.name + ".rehearsal.json"),
        manifest=opened.manifest.digest,
        target=str(opened.manifest.data["target"]),
        python=version,
        network=f"NOT cut off: {reason}" if reason else "cut off (network namespace)",
        problem=problem,
    )
    # A failed rehearsal must not leave the record of an earlier, good one.
    record.path.unlink(missing_ok=True)
    console = console or Console(stderr=True, emoji=False)
    if reason:
        console.print(f"NOTE: this machine does not let the network be cut off: {reason}", markup=False)
    with tempfile.TemporaryDirectory(prefix="aimo-rehearsal-") as scratch:
        _check_space(opened.manifest, Path(scratch))
        _run_steps(record, opened, Path(scratch), python, time_limit, console)
    content = {**asdict(record), "path": None, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_text(record.path, json.dumps({k: v for k, v in content.items() if v is not None}, indent=1) + "\n")
    return record


def _run_steps(
    record: Record, opened: Bundle, scratch: Path, python: str, time_limit: float, console: Console
) -> None:
    home, environment = scratch / "home", scratch / "environment"

    def step(name: str, work: Callable[[Callable[[str], None]], str]) -> None:
        started = time.monotonic()
        with console.status(name) as status:
            outcome = work(lambda line: status.update(Text(f"{name}: ") + end_of(line, 100)))
        record.steps.append(Step(name, round(time.monotonic() - started, 1), outcome))
        console.print(f"{name}: {outcome} ({record.steps[-1].seconds:.1f} s)", markup=False, highlight=False)

    def install(on_line: Callable[[str], None]) -> str:
        install_offline(opened.root, environment, python, home=home, on_line=on_line)
        count = sum(entry.path.endswith(".whl") for entry in opened.manifest.entries)
        return f"{count} wheels, no index"

    def solve(on_line: Callable[[str], None]) -> str:
        interpreter = environment / "bin" / "python"
        record.answer = solve_one(opened, interpreter, record.problem, time_limit, scratch, on_line)
        return f"answer {record.answer}"

    step("verify the bundle", lambda _: check_whole(opened))
    step("install into an empty environment", install)
    if why_not_cut() is None:
        step("prove that the network is off", lambda _: probe(environment / "bin" / "python", home))
    step("solve one problem through the gateway", solve)
    step("check that the bundle is unchanged", lambda _: check_unchanged(opened.root))


def check_runs_here(manifest: Manifest, python: str) -> str:
    """The full version of `python`, once the bundle's target fits it and this machine (else ValueError)."""
    if manifest.data.get("wheels") is not True:
        raise ValueError(
            "the bundle was built with --no-wheels and cannot be installed; build it with its wheels"
        )
    target = Target.parse(str(manifest.data.get("target")))
    here = Target.local()
    if target.engine == "cuda" and not Path("/proc/driver/nvidia/version").exists():
        raise ValueError(
            f"the bundle is for {target.name} and this machine has no NVIDIA driver; "
            "rehearse it on a machine of its target"
        )
    if (target.machine, target.glibc) > (here.machine, here.glibc) or target.machine != here.machine:
        raise ValueError(f"the bundle is for {target.name}, newer than this machine ({here.name})")
    question = "import pip, platform; print(platform.python_version())"
    try:
        done = subprocess.run(
            [python, "-I", "-c", question], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"--python {python} cannot be run: {error}") from None
    if done.returncode:
        raise ValueError(
            f"--python {python} has no pip (run {python} -m ensurepip): {done.stderr.strip()[-200:]}"
        )
    version = done.stdout.strip()
    if not version.startswith(f"{target.python}."):
        raise ValueError(
            f"the bundle is for Python {target.python} and {python} is {version}; name the right "
            "one with --python"
        )
    return version


def _check_space(manifest: Manifest, folder: Path) -> None:
    needed = UNPACKED * sum(entry.size for entry in manifest.entries if entry.path.endswith(".whl"))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder.parent} has {free / 1e9:.1f} GB free and the rehearsal may need {needed / 1e9:.1f} GB; "
            "free some space or set TMPDIR to another disk"
        )


def check_whole(bundle: Bundle) -> str:
    """Verify every file; ValueError naming the first that differs."""
    problems = verify(bundle.root)
    if problems:
        first = problems[0]
        raise ValueError(
            f"bundle {bundle.root} is not whole: {first.path} {first.message} ({len(problems)} in all)"
        )
    return f"{len(bundle.manifest.entries)} files as built"


def check_unchanged(bundle: Path) -> str:
    """ValueError when the run left or changed a file in the bundle, which a read-only mount would refuse."""
    problems = quick_check(bundle)
    if problems:
        raise ValueError(
            f"the run wrote into the bundle ({problems[0].path}); at the contest it is mounted read-only"
        )
    return "nothing written into it"


def solve_one(
    bundle: Bundle,
    python: Path,
    problem: str,
    time_limit: float,
    scratch: Path,
    on_line: Callable[[str], None] | None = None,
) -> int:
    """Play a contest of one problem with the bundle's own code, offline; returns the checked answer."""
    problems, out = scratch / "problems.csv", scratch / "submission.parquet"
    with problems.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "problem"), (PROBLEM_ID, problem)])
    command, variables = run_command(bundle.root, python)
    done = run_offline(
        [*command, "--problems", problems, "--out", out, "--time-limit", f"{time_limit:g}"],
        home=scratch / "home",
        cwd=scratch,
        on_line=on_line,
        timeout=time_limit + GRACE,
        extra=variables,
    )
    if done.code != 0:
        raise ValueError(
            f"the contest of one problem failed (exit code {done.code}); its last lines:\n{done.tail}"
        )
    return check_answer(out, ContestSettings.load(bundle.settings))


def check_answer(out: Path, settings: ContestSettings) -> int:
    """The one answer in a contest's parquet file; ValueError unless it is one row, an integer in range."""
    import polars

    try:
        table = polars.read_parquet(out)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise ValueError(f"the contest wrote no readable {out.name}: {error}") from None
    if table.columns != ["id", "answer"] or table.height != 1 or not table["answer"].dtype.is_integer():
        raise ValueError(f"{out.name} must have one row with columns id and answer (an integer), got {table}")
    row: dict[str, Any] = table.row(0, named=True)
    rules = settings.rules
    if row["id"] != PROBLEM_ID or row["answer"] is None:
        raise ValueError(f"{out.name} must answer the problem {PROBLEM_ID!r}, got {row}")
    answer = int(row["answer"])
    if not rules.answer_min <= answer <= rules.answer_max:
        raise ValueError(f"answer {answer} is outside {rules.answer_min}..{rules.answer_max}")
    return answer

"""`make run`: the whole way on one small machine, from a public model to a scored, offline contest.

Five steps: obtain the default model, package it, install the bundle into an empty environment without a
network, play the sample problems through the gateway there, show the result. Every step is skipped when
what it would make stands already and its inputs have not changed; the contest itself is played each time.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from kit.models import default_model
from kit.package import cut_network
from kit.package.offline import end_of, install_offline, why_not_cut
from submission.bundle import Bundle, quick_check, run_command
from submission.cli import run
from submission.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS = ROOT / "kit" / "data" / "sample_problems.csv"
# Everything that decides what the bundle holds, besides the model.
INPUTS = ("submission", "kit/package", "pyproject.toml", "constraints.txt", "LICENSE")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True, emoji=False)
T = TypeVar("T")


@app.command()
def demo(
    bundle: Annotated[Path, typer.Option(help="The bundle's folder.")] = ROOT / "bundles" / "demo",
    out: Annotated[Path, typer.Option(help="Folder of the contest's outputs.")] = ROOT / "runs" / "demo",
    time_limit: Annotated[float, typer.Option("--time-limit", help="Seconds for the contest.")] = 300.0,
) -> None:
    """Play the whole way: model, bundle, offline install, contest, report."""
    bundle, out = bundle.absolute(), out.absolute()
    begun = time.monotonic()
    model = _step("1/4 model", default_model)
    _step("2/4 bundle", lambda: _bundle(model, bundle))
    python = _step("3/4 offline install", lambda: _environment(bundle, ROOT / "build" / "demo-env"))
    _step("4/4 contest", lambda: _contest(bundle, python, out, time_limit))
    console.print(f"[bold]done[/] in {time.monotonic() - begun:.0f} s", highlight=False)


def _step(name: str, work: Callable[[], T]) -> T:
    console.rule(f"[bold]{name}", align="left")
    begun = time.monotonic()
    result = work()
    console.print(f"{name}: {time.monotonic() - begun:.0f} s", style="dim", highlight=False)
    return result


def _bundle(model: Path, bundle: Path) -> None:
    """Build the bundle unless it stands, whole, from these very inputs."""
    fingerprint = _fingerprint(model)
    stamp = ROOT / "build" / f"{bundle.name}.inputs"
    if _stands(bundle) and _read(stamp) == f"{fingerprint} {Bundle.open(bundle).manifest.digest}":
        console.print(f"{bundle} stands and its inputs have not changed", markup=False, highlight=False)
        return
    # Without --model the packager takes the same default model, and notes in the bundle what it is worth.
    command = [sys.executable, "-P", "-m", "kit.package", "--profile", "demo", "--out", str(bundle)]
    # A demonstration of whatever stands here; the manifest says whether it is a revision's.
    command += ["--allow-dirty"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": _module_path()}, cwd=ROOT, check=False)
    if done.returncode:
        raise ValueError("the bundle could not be built; the lines above say why")
    write_text(stamp, f"{fingerprint} {Bundle.open(bundle).manifest.digest}")


def _module_path() -> str:
    """PYTHONPATH with this repository first; an empty part would mean the working folder."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(ROOT), *(str(Path(part).absolute()) for part in given if part)])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _stands(bundle: Path) -> bool:
    try:
        return not quick_check(bundle)
    except ValueError:
        return False


def _fingerprint(model: Path) -> str:
    digest = hashlib.sha256()
    for name in INPUTS:
        place = ROOT / name
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode())
                digest.update(file.read_bytes())
    for file in sorted(model.iterdir()):
        # The model is built once and checked by kit.models: its size and time are enough here.
        digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _environment(bundle: Path, folder: Path) -> Path:
    """Install the bundle offline unless the environment was made from the same wheels."""
    wanted = hashlib.sha256((bundle / "requirements.txt").read_bytes() + sys.version.encode()).hexdigest()
    stamp, python = folder / "installed-from", folder / "bin" / "python"
    if _read(stamp) == wanted and python.exists():
        console.print(f"{folder} stands, installed from these wheels", markup=False, highlight=False)
        return python
    shutil.rmtree(folder, ignore_errors=True)
    reason = why_not_cut()
    network = f"NOT cut off ({reason})" if reason else "cut off"
    console.print(f"network: {network}", markup=False, highlight=False)
    with console.status("installing") as status:
        home = ROOT / "build" / "demo-home"
        python = install_offline(
            bundle,
            folder,
            sys.executable,
            home=home,
            on_line=lambda line: status.update(Text("installing: ") + end_of(line, 90)),
        )
    write_text(stamp, wanted)
    return python


def _contest(bundle: Path, python: Path, out: Path, time_limit: float) -> None:
    """Play the sample problems with the bundle's own code in its own environment, without a network."""
    command, variables = run_command(bundle, python)
    command += ["--problems", str(PROBLEMS), "--out", str(out / "submission.parquet")]
    # --fresh: an earlier contest that was interrupted is not continued but played anew.
    command += ["--time-limit", f"{time_limit:g}", "--fresh"]
    launcher = [] if why_not_cut() else [sys.executable, "-I", cut_network.__file__]
    home = ROOT / "build" / "demo-home"
    kept = {name: os.environ[name] for name in ("PATH", "TERM", "COLUMNS", "LANG") if name in os.environ}
    # The terminal is handed through, so that the contest's live view is seen.
    done = subprocess.run(
        [*launcher, *command], env={**kept, **variables, "HOME": str(home)}, cwd=ROOT, check=False
    )
    if done.returncode:
        raise ValueError(
            f"the contest failed with exit code {done.returncode}; see {out}/submission.server.log"
        )


if __name__ == "__main__":
    run(app)

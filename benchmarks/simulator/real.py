"""The simulator held against real contests on a real engine: predicted from one recording, then played.

    python -m benchmarks.simulator.real [--model FOLDER] [--json figures.json]

Four runs of `benchmarks.run` with vLLM and one model: contest A; samples, which are the recording; contest B,
with another seed (other samples), another number of agents and another policy; contest A again, which tells
how far the machine itself drifts. Both contests' times are predicted from the recording alone. About five
minutes with SmolLM2-135M on two quiet cores; a machine that does other things makes all of it meaningless.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.shared import ROOT
from benchmarks.simulator.against import Prediction, predict, prediction_facts
from benchmarks.simulator.check import Real, read_contests, run_overrides
from benchmarks.simulator.contest import Machine
from benchmarks.simulator.pool import read_pools
from benchmarks.simulator.recording import read_recording
from benchmarks.simulator.showing import CLOSE, spelled, tell_predictions
from submission.cli import run
from submission.files import write_text
from submission.settings import ContestSettings

PROBLEMS = ROOT / "kit" / "data" / "sample_problems.csv"
COMMON = (
    *("solver.temperature=0.8", "solver.last_number=true", "solver.system_prompt="),
    *("engine.max_model_len=512", "engine.max_num_seqs=16", "engine.cpu_kv_cache_gib=1"),
)
RECORDING = "recording"
A = ("--time-limit", "2h", "--setting", "solver.policy=agree", "--setting", "solver.agree=2")
B = ("--time-limit", "2h", "--setting", "solver.policy=value", "--seed", "7000")
SAMPLES = 8

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def runs(agents: tuple[int, int]) -> Mapping[str, tuple[str, ...]]:
    """Options of `benchmarks.run` for each run, in the order in which they are played."""
    few = ("--setting", f"solver.num_agents={agents[0]}", "--setting", f"solver.max_attempts={SAMPLES}")
    more = ("--setting", f"solver.num_agents={agents[1]}", "--setting", f"solver.max_attempts={SAMPLES}")
    recording = ("--samples", str(SAMPLES), "--setting", f"solver.num_agents={SAMPLES}")
    return {"A": (*A, *few), RECORDING: recording, "B": (*B, *more), "A again": (*A, *few)}


@app.command()
def real(
    model: Annotated[Path | None, typer.Option(help="Checkpoint. Default: the kit's small model.")] = None,
    problems: Annotated[int, typer.Option(min=1, help="Of the sample problems.")] = 8,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Of a completion, at most.")] = 96,
    out: Annotated[Path | None, typer.Option(help="Keep the runs here; what is there is not played.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Record, play and predict; print how far off the simulator is, and why."""
    if model is None:
        from kit.models import default_model

        model = default_model()
    with tempfile.TemporaryDirectory(prefix="aimo-simulator-") as folder:
        figures = measure(model.resolve(), out or Path(folder), problems, max_tokens, Console())
    if json_path is not None:
        write_text(json_path, json.dumps(figures, indent=1) + "\n")


def measure(model: Path, out: Path, problems: int, max_tokens: int, console: Console) -> dict[str, Any]:
    """Play the four runs, or take those that are in `out`; the figures, ready for JSON."""
    out.mkdir(parents=True, exist_ok=True)
    asked = _first_problems(out / "problems.csv", problems)
    busy: dict[str, float] = {}
    for name, options in runs((4, 6)).items():
        console.rule(name)
        busy[name] = os.getloadavg()[0]
        _play(model, asked, out / name.replace(" ", "-"), (*options, *_settings(max_tokens)))
    return judged(out, model.name, busy, console)


def judged(out: Path, model: str, busy: Mapping[str, float], console: Console) -> dict[str, Any]:
    """Predict the contests in `out` from the recording beside them."""
    recorded = read_recording([out / RECORDING])
    pools = read_pools(recorded)
    (source,) = read_contests(out / RECORDING, samples=True)
    machine = Machine(pools.throughput, load_seconds=source.begun, between=source.between)
    found: dict[str, Prediction] = {}
    reals: dict[str, Real] = {}
    for name in ("A", "B", "A again"):
        folder = out / name.replace(" ", "-")
        (reals[name],) = read_contests(folder)
        settings = ContestSettings.load(None, run_overrides(folder, None))
        found[name] = predict(reals[name], read_recording([folder]), recorded, machine, settings)
    first, second = (reals[name].seconds - reals[name].begun for name in ("A", "A again"))
    console.print(f"engine     {spelled(pools.throughput)} ({pools.source})", highlight=False)
    tell_predictions(list(found.values()), console)
    console.print(f"drift      A again took {second / first:.3f} times as long as A", highlight=False)
    return {
        "model": model,
        "problems": len(source.order),
        "samples": len(recorded),
        "engine": spelled(pools.throughput),
        "source": pools.source,
        "drift": second / first,
        "load_average": dict(busy),
        "contests": {name: prediction_facts(one) for name, one in found.items()},
    }


def _settings(max_tokens: int) -> tuple[str, ...]:
    return tuple(part for one in (*COMMON, f"solver.max_tokens={max_tokens}") for part in ("--setting", one))


def _first_problems(path: Path, count: int) -> Path:
    with PROBLEMS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows[: count + 1])
    return path


def _play(model: Path, problems: Path, out: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--set", str(problems), "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "MATH_MODEL_PATH": str(model)}, check=False)
    if done.returncode:
        raise ValueError(f"benchmarks.run failed in {out}; the lines above say why")


def simulator_section(figures: dict[str, Any]) -> list[str]:
    """For BENCHMARKS.md."""
    drift = figures["drift"] - 1
    lines = [
        f"Contests of {figures['problems']} problems on vLLM ({figures['model']}), their times predicted by",
        f"`benchmarks.simulator` from {figures['samples']} samples recorded without a limit. A draws the",
        "recorded samples with fewer side by side and stops at two equal votes; B has another seed, so",
        "other samples, another number of agents and another policy: its prediction is a mean over draws.",
        "Seconds from the first problem to the last answer; pace: how many times as long a token took as in",
        f"the recording, company taken out. A again took {100 * drift:+.1f} % against A: the machine's own",
        f"drift. Aim: {CLOSE:.0%}. Missed: the problems' errors without sign, summed, over their seconds.",
        "",
        f"Engine as fitted: {figures['engine']}.",
        "",
        "| Contest | Same samples | Predicted | Real | Error | Pace | Error at that pace | Missed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in figures["contests"].items():
        real_seconds = one["real"] - one["loading"]["real"]
        predicted = one["predicted"] - one["loading"]["predicted"]
        misses = sum(abs(time["predicted"] - time["real"]) for time in one["problems"])
        missed = misses / sum(time["real"] for time in one["problems"])
        lines.append(
            f"| {name} | {one['alike']:.0%} | {predicted:.1f} | {real_seconds:.1f} "
            f"| {100 * one['sampling_error']:+.1f} % | {one['pace']:.2f} | {100 * one['rest']:+.1f} % "
            f"| {100 * missed:.0f} % |"
        )
    return lines


if __name__ == "__main__":
    run(app)

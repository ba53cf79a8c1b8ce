r"""Whether a tool helps a model that was taught to use it: the same samples with the sandbox and without.

    python -m benchmarks.tools [--problems 150] [--samples 8] [--folder build/tools] [--json PATH]

A model of some 200,000 parameters learns by `kit.distill`, in a minute or two, to answer sums by a program:

    ```python
    print(4650 + 1909)
    ```
    ```output
    6559
    ```
    \boxed{6559}

It learns to copy the operands and to box what the output block holds, but sums of four digits are beyond it.
Held-out problems are then played by the contest's own `Staff` with the transformers engine, twice: with
`tools = "fenced"` the sandbox writes the output block, with `tools = "none"` the model does. Prompts and
seeds are the same, so a sample's tokens are the same on both sides up to its first output mark: checked.
"""

import asyncio
import hashlib
import json
import math
import re
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.learning.runs import check_finished
from benchmarks.learning.settings import ModelShape, Training, supervised_recipe
from benchmarks.shared import ROOT
from kit.data.records import Record, write_records
from kit.worked import LARGEST, Difficulty, generate
from submission.agents.team import Role, Team, Tools
from submission.cli import run
from submission.engines.base import Chunk, SampleRequest
from submission.engines.transformers_engine import TransformersEngine
from submission.files import write_text
from submission.recipes import Recipe
from submission.selection.statistics import mean_interval
from submission.settings import ContestRules, ContestSettings, EngineSettings, SandboxSettings, SolverSettings
from submission.solving.sample import Solution
from submission.staff import Staff

SECONDS = 600.0
"""A problem's time: no sample is cut off by it."""
LONGEST = 128
"""Tokens of a problem with its solution at most."""

_STEP = re.compile(r"^Step \d+: (\d+) ([-+*]) (\d+) = ", re.MULTILINE)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


class Lessons(Recipe):
    """What the model is, and what it is taught."""

    problems: int = 20_000
    difficulty: Difficulty = Difficulty(kinds=["sum", "mixed"], max_operands=3, largest=9_999)
    model: ModelShape = ModelShape(hidden=96, heads=3, intermediate=192)
    training: Training = Training(steps=1_200)


class KeepingEngine(TransformersEngine):
    """The contest's engine; it keeps what it was asked and what it drew, by problem and attempt."""

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        super().__init__(model, settings)
        self.prompts: dict[tuple[str, int], list[int]] = {}
        self.rounds: defaultdict[tuple[str, int], list[list[int]]] = defaultdict(list)
        """Token ids of each round's own text."""

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """See `Engine`."""
        sample = (request.problem, request.attempt)
        self.prompts.setdefault(sample, list(request.prompt))
        drawn: list[int] = []
        self.rounds[sample].append(drawn)
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                drawn += chunk.token_ids
                yield chunk


@dataclass(frozen=True)
class Side:
    """All problems played in one way.

    Args:
        solutions: one a problem.
        prompts, first: of each sample, by problem and attempt: its prompt, and the tokens of its first round.
    """

    solutions: Sequence[Solution]
    prompts: dict[tuple[str, int], list[int]]
    first: dict[tuple[str, int], list[int]]


def trace(record: Record) -> Record:
    """A worked problem of `kit.worked` as a program, its output and the boxed answer.

    Raises:
        ValueError: its completion has no steps to make a program of.
    """
    steps = _STEP.findall(record.completion)
    if not steps:
        raise ValueError(f"no steps in the solution {record.completion[:80]!r} of {record.problem[:80]!r}")
    program = steps[0][0] + "".join(f" {sign} {operand}" for _, sign, operand in steps)
    answer = record.answer
    written = f"```python\nprint({program})\n```\n```output\n{answer}\n```\n\\boxed{{{answer}}}"
    return record.model_copy(update={"completion": written})


def teach(lessons: Lessons, folder: Path) -> tuple[Path, float]:
    """The taught checkpoint and the CPU-seconds that its training took; from `folder`, if it is there.

    Raises:
        ValueError: the training did not come to its end.
    """
    settings = lessons.model_dump_json()
    out = folder / hashlib.sha256(settings.encode()).hexdigest()[:12]
    done = out / "done.json"
    if not done.is_file():
        from kit.distill.phase import distill
        from kit.small import make_small_model

        begun = time.process_time()
        records = generate(lessons.problems, "train", 0, lessons.difficulty)
        write_records(out / "traces.jsonl", [trace(record) for record in records])
        make_small_model(out / "init", **lessons.model.model_dump(), seed=0)
        recipe = supervised_recipe(
            lessons.training,
            out=out,
            start=out / "init",
            data=(out / "traces.jsonl", lessons.problems),
            max_length=LONGEST,
        )
        check_finished(distill(recipe))
        write_text(done, json.dumps({"cpu_seconds": time.process_time() - begun}))
    return out / "model", float(json.loads(done.read_text(encoding="utf-8"))["cpu_seconds"])


def contest(tools: Tools, samples: int) -> ContestSettings:
    """The settings of one side; the two differ in nothing but the tool."""
    return ContestSettings(
        rules=ContestRules(answer_max=LARGEST),
        solver=SolverSettings(num_agents=samples, policy="fixed", max_tokens=LONGEST, system_prompt=""),
        team=Team(roles=(Role(name="solver", tools=tools),)),
        engine=EngineSettings(kind="transformers", dtype="float32", max_model_len=512, max_num_seqs=samples),
        sandbox=SandboxSettings(workers=samples),
    )


async def play(model: Path, records: Sequence[Record], settings: ContestSettings, title: str) -> Side:
    """Every problem in turn, by a staff of its own.

    Raises:
        ValueError: the engine or the sandbox does not start, or a sample failed.
    """
    engine = KeepingEngine(model, settings.engine)
    faults: list[str] = []
    staff = Staff(settings, engine, on_fault=lambda what, why: faults.append(f"{what}: {why}"))
    try:
        await staff.start()
        if faults:
            raise ValueError("; ".join(faults))
        solutions = []
        for number, record in enumerate(track(records, title, console=console)):
            solutions.append(await staff.solver.solve(str(number), record.problem, SECONDS))
    finally:
        await staff.close()
    errors = [sample.error for solution in solutions for sample in solution.samples if sample.error]
    if errors:
        raise ValueError(f"{len(errors)} samples failed, the first with: {errors[0]}")
    return Side(solutions, engine.prompts, {sample: drawn[0] for sample, drawn in engine.rounds.items()})


def same_share(tool: Side, alone: Side) -> float:
    """Share of the samples whose tokens are the same on both sides, up to the first output mark.

    Raises:
        ValueError: the sides were asked different things.
    """
    if tool.prompts != alone.prompts:
        raise ValueError("the two sides had different prompts: they cannot be compared")
    same = [alone.first[sample][: len(drawn)] == drawn for sample, drawn in tool.first.items()]
    return sum(same) / len(same)


def compared(records: Sequence[Record], tool: Side, alone: Side) -> dict[str, Any]:
    """The figures of both sides, and their differences with paired intervals over problems."""
    gold = [int(record.answer) for record in records]
    right = {
        name: [
            statistics.fmean(sample.answer == answer for sample in solution.samples)
            for answer, solution in zip(gold, side.solutions, strict=True)
        ]
        for name, side in (("tool", tool), ("alone", alone))
    }
    voted = {
        name: [float(one.answer == answer) for answer, one in zip(gold, side.solutions, strict=True)]
        for name, side in (("tool", tool), ("alone", alone))
    }
    calls = [call for one in tool.solutions for sample in one.samples for call in sample.calls]
    seconds = sorted(call.seconds for call in calls)
    return {
        "problems": len(records),
        "samples": len(tool.solutions[0].samples),
        "same_share": same_share(tool, alone),
        "accuracy": _both(right["tool"], right["alone"]),
        "majority": _both(voted["tool"], voted["alone"]),
        "calls": len(calls),
        "failures": sum(call.failed for call in calls),
        "call_seconds_p50": statistics.median(seconds) if seconds else math.nan,
        "call_seconds_p95": seconds[int(0.95 * (len(seconds) - 1))] if seconds else math.nan,
        "seconds": {
            "tool": sum(one.seconds for one in tool.solutions),
            "alone": sum(one.seconds for one in alone.solutions),
        },
    }


def _both(tool: Sequence[float], alone: Sequence[float]) -> dict[str, Any]:
    interval = mean_interval([ours - theirs for ours, theirs in zip(tool, alone, strict=True)])
    return {
        "tool": statistics.fmean(tool),
        "alone": statistics.fmean(alone),
        "difference": list(interval),
    }


def helps(figures: dict[str, Any]) -> bool:
    """Whether the tool helps clear of zero, by the sample and by the vote."""
    return all(figures[name]["difference"][1] > 0 for name in ("accuracy", "majority"))


def measure(lessons: Lessons, problems: int, samples: int, folder: Path) -> dict[str, Any]:
    """Teach, play both sides, compare."""
    model, cpu_seconds = teach(lessons, folder)
    records = generate(problems, "test", 0, lessons.difficulty)
    tool = asyncio.run(play(model, records, contest("fenced", samples), "with the tool"))
    alone = asyncio.run(play(model, records, contest("none", samples), "without"))
    return {
        "parameters": _parameters(model),
        "training_cpu_seconds": cpu_seconds,
        **compared(records, tool, alone),
    }


def _parameters(model: Path) -> int:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping


def section(figures: dict[str, Any]) -> list[str]:
    """The page's section on tools."""
    lines = [
        f"A model of {figures['parameters']:,} parameters, taught in {figures['training_cpu_seconds']:.0f}",
        "CPU-seconds by `kit.distill` to answer sums of four-digit numbers by a program, plays",
        f"{figures['problems']} held-out problems with {figures['samples']} samples each: with the sandbox,",
        "and without it, when it writes the program's output itself. Prompts and seeds are the same:",
        f"{figures['same_share']:.1%} of the samples have the same tokens up to the first output mark.",
        f"{figures['calls']} calls, {figures['failures']} of which failed;",
        f"{1e3 * figures['call_seconds_p50']:.1f} ms a call (p95 {1e3 * figures['call_seconds_p95']:.1f}).",
        "",
        "| Right | With the tool | Without | Difference (95 % interval over problems) |",
        "|---|--:|--:|--:|",
    ]
    for name, title in (("accuracy", "Samples"), ("majority", "Majority of a problem's samples")):
        values = figures[name]
        mean, low, high = values["difference"]
        lines.append(
            f"| {title} | {values['tool']:.1%} | {values['alone']:.1%} "
            f"| {100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |"
        )
    return lines


@app.command()
def main(
    problems: Annotated[int, typer.Option(min=2, help="Held-out problems.")] = 150,
    samples: Annotated[int, typer.Option(min=1, max=60, help="Samples a problem on each side.")] = 8,
    folder: Annotated[Path, typer.Option(help="Where the taught model is kept.")] = ROOT / "build" / "tools",
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure both sides; exit code 1 where the tool does not help clear of zero."""
    figures = measure(Lessons(), problems, samples, folder)
    _print(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    if not helps(figures):
        raise typer.Exit(1)


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="The same samples with the tool and without it")
    for name in ("right", "with", "without", "difference", "95 % interval"):
        table.add_column(name, justify="right")
    for name in ("accuracy", "majority"):
        values = figures[name]
        mean, low, high = values["difference"]
        table.add_row(
            *(name, f"{values['tool']:.1%}", f"{values['alone']:.1%}"),
            *(f"{100 * mean:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"),
        )
    console.print(table)
    console.print(
        f"{figures['same_share']:.1%} of the samples the same up to the output mark; {figures['calls']} "
        f"calls, {figures['failures']} failed, {1e3 * figures['call_seconds_p50']:.1f} ms each (p95 "
        f"{1e3 * figures['call_seconds_p95']:.1f})",
        highlight=False,
    )


if __name__ == "__main__":
    run(app)

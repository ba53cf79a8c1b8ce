"""One problem, without a gateway: `python -m submission solve "..."`."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from submission.engines import make_engine
from submission.engines.base import EngineError
from submission.files import write_text
from submission.notes import answer_facts, sample_facts
from submission.offline import go_offline
from submission.prm.making import make_scorer
from submission.prm.room import side_by_side
from submission.setup import Setup
from submission.solving.sample import Sample, Solution
from submission.staff import Staff


def solve_one(
    setup: Setup, text: str, *, time_limit: float, output: Path | None, console: Console
) -> Solution:
    """Solve one problem, print the votes, and write everything to `output` (JSON) if it is given.

    Raises:
        ValueError: the problem is empty, or the model cannot be served.
    """
    if not text.strip():
        raise ValueError("the problem is empty: give its text as the argument")
    if output is not None:
        _check_output(output)
    go_offline()
    try:
        solution = asyncio.run(_solve(setup, text, time_limit, console))
    except EngineError as error:
        raise ValueError(str(error)) from error
    votes = ", ".join(f"{answer}: {count}" for answer, count in solution.votes) or "none"
    tokens = sum(sample.tokens for sample in solution.samples)
    console.print(
        Text(
            f"votes {votes} ({len(solution.samples)} samples, {tokens} tokens, {solution.seconds:.1f} s, "
            f"stopped: {solution.stopped})"
        )
    )
    if solution.source == "default":
        console.print("[yellow]no sample answered: this is the default answer[/]")
        errors = {sample.error for sample in solution.samples if sample.error}
        for message in sorted(errors):
            console.print(Text(f"fault: {message}", "bold red"))
    console.print(f"[bold]{solution.answer}[/]", highlight=False)
    if output is not None:
        write_text(output, json.dumps(_as_json(setup, text, solution), indent=2) + "\n")
        console.print(Text(f"written to {output}"), soft_wrap=True)
    return solution


def _check_output(path: Path) -> None:
    """Refuse an output that cannot be written, before a model is loaded for it."""
    if path.is_dir():
        raise ValueError(f"--output-file {path} is a folder: name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--output-file {path}: cannot write there: {error.strerror}") from None


async def _solve(setup: Setup, text: str, time_limit: float, console: Console) -> Solution:
    faults: list[str] = []

    def note(what: str, why: str) -> None:
        faults.append(f"{what}: {why}")

    settings, prm = side_by_side(setup.settings, setup.prm, note)
    engine = make_engine(settings.served, setup.model)
    staff = Staff(settings, engine, make_scorer(settings, prm), setup.rule, note)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"loading {escape(setup.name)}")
        try:
            if trouble := await staff.start():
                raise EngineError(trouble.partition(": ")[2])
            for fault in faults:
                console.print(Text(f"fault: {fault}", "bold red"))
            answers: list[int | None] = []

            def count(sample: Sample) -> None:
                answers.append(sample.answer)
                progress.update(task, description=_describe(answers))

            progress.update(task, description="sampling")
            return await staff.solver.solve("problem", text, time_limit, count)
        finally:
            progress.update(task, description="ending the engine")
            await staff.close()


def _describe(answers: Sequence[int | None]) -> str:
    shown = ", ".join("-" if answer is None else str(answer) for answer in answers)
    return f"{len(answers)} samples: {shown}"


def _as_json(setup: Setup, text: str, solution: Solution) -> dict[str, object]:
    return {
        "problem": text,
        **answer_facts(solution, ""),
        "model": setup.name,
        "samples": [{**sample_facts(sample), "steps": list(sample.steps)} for sample in solution.samples],
    }

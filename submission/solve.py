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
from submission.offline import go_offline
from submission.scoring import PrmScorer
from submission.setup import Setup
from submission.solver import Sample, Solution, Solver


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
    engine = make_engine(setup.settings.engine, setup.model)
    scorer = PrmScorer(setup.prm) if setup.prm else None
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"loading {escape(setup.name)}")
        await engine.start()
        try:
            if scorer is not None:
                await scorer.start()
            answers: list[int | None] = []

            def note(sample: Sample) -> None:
                answers.append(sample.answer)
                progress.update(task, description=_describe(answers))

            progress.update(task, description="sampling")
            solver = Solver(engine, setup.settings.solver, setup.settings.rules, scorer)
            return await solver.solve("problem", text, time_limit, note)
        finally:
            progress.update(task, description="ending the engine")
            await engine.close()


def _describe(answers: Sequence[int | None]) -> str:
    shown = ", ".join("-" if answer is None else str(answer) for answer in answers)
    return f"{len(answers)} samples: {shown}"


def _as_json(setup: Setup, text: str, solution: Solution) -> dict[str, object]:
    return {
        "problem": text,
        "answer": solution.answer,
        "source": solution.source,
        "votes": [list(vote) for vote in solution.votes],
        "seconds": round(solution.seconds, 3),
        "stopped": solution.stopped,
        "model": setup.name,
        "samples": [
            {
                "attempt": sample.attempt,
                "answer": sample.answer,
                "tokens": sample.tokens,
                "seconds": round(sample.seconds, 3),
                "finish": sample.finish,
                "error": sample.error,
                "prm_score": sample.prm_score,
                "text": sample.text,
            }
            for sample in solution.samples
        ],
    }

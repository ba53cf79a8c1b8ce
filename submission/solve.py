"""One problem, without a gateway: `python -m submission solve "..."`."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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
    go_offline()
    try:
        solution = asyncio.run(_solve(setup, text, time_limit, console))
    except EngineError as error:
        raise ValueError(str(error)) from error
    votes = ", ".join(f"{answer}: {count}" for answer, count in solution.votes) or "none"
    tokens = sum(sample.tokens for sample in solution.samples)
    console.print(
        f"votes {votes} ({len(solution.samples)} samples, {tokens} tokens, {solution.seconds:.1f} s, "
        f"stopped: {solution.stopped})",
        highlight=False,
    )
    if solution.source == "default":
        console.print("[yellow]no sample answered: this is the default answer[/]")
    console.print(f"[bold]{solution.answer}[/]", highlight=False)
    if output is not None:
        write_text(output, json.dumps(_as_json(setup, text, solution), indent=2) + "\n")
        console.print(f"written to {output}", soft_wrap=True, highlight=False)
    return solution


async def _solve(setup: Setup, text: str, time_limit: float, console: Console) -> Solution:
    engine = make_engine(setup.settings.engine, setup.model)
    scorer = PrmScorer(setup.prm) if setup.prm else None
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"loading {setup.name}")
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

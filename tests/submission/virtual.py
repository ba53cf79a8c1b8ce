"""Contests on a virtual clock: hours of them in milliseconds."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from submission.clock import VirtualLoop
from submission.engines.replay import Recorded, ReplayEngine
from submission.settings import ContestRules, SolverSettings
from submission.solving.sample import Sample, Solution
from submission.solving.solver import Solver

T = TypeVar("T")


def run_virtual(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """The result of `work` and the virtual seconds it took."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work), loop.time()
    finally:
        _end_what_is_left(loop)
        loop.close()


def _end_what_is_left(loop: VirtualLoop) -> None:
    """Engines that ignored their abort, say: the garbage collector would end them during another test."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=1e6))
    loop.run_until_complete(loop.shutdown_asyncgens())


def boxed(answer: int | str, seconds: float, error: str = "") -> Recorded:
    return Recorded(f"thinking... \\boxed{{{answer}}}", tokens=80, seconds=seconds, error=error)


def solve_recorded(
    samples: Sequence[Recorded], seconds: float = 100.0, **settings: Any
) -> tuple[Solution, float, list[Sample]]:
    """Solve one recorded problem; also the virtual seconds and the samples in order of their end."""
    recording: Mapping[str, Sequence[Recorded]] = {"p": samples}
    seen: list[Sample] = []
    solver = Solver(
        ReplayEngine(recording),
        SolverSettings(**{"num_agents": len(samples), "agree": None, **settings}),
        ContestRules(),
    )
    solution, spent = run_virtual(solver.solve("p", "What is it?", seconds, seen.append))
    return solution, spent, seen

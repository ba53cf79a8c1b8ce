"""Contests on a virtual clock: hours of them in milliseconds."""

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
        loop.close()


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

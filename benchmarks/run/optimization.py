"""What `--optimization` changes of a bundle's own settings."""

from typing import Literal, get_args

from submission.settings import SolverSettings

Optimization = Literal["accuracy", "speed", "balanced"]


def optimization_overrides(name: str, solver: SolverSettings) -> tuple[str, ...]:
    """Overrides of the solver's settings.

    accuracy: twice the bundle's attempts, all of them drawn whatever they say. speed: half of the attempts,
    and the first two that agree decide. balanced: the bundle's attempts, drawn while another one is worth its
    time in the rest of the contest.

    Raises:
        ValueError: another name.
    """
    if name == "accuracy":
        return ("solver.policy=fixed", f"solver.max_attempts={2 * solver.attempts}")
    if name == "speed":
        attempts = max(2, solver.attempts // 2)
        return (
            "solver.policy=agree",
            "solver.agree=2",
            f"solver.max_attempts={attempts}",
            f"solver.num_agents={min(solver.num_agents, attempts)}",
        )
    if name == "balanced":
        return ("solver.policy=value", f"solver.max_attempts={solver.attempts}")
    raise ValueError(f"--optimization {name!r}: choose one of {', '.join(get_args(Optimization))}")

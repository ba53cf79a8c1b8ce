"""Whole contests of recorded attempts: the ledger's time, one problem after the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.attempts import RIGHT, Attempt
from benchmarks.replay import replay
from submission.ledger import Facts, Ledger
from submission.policies.situation import Policy, Situation


@dataclass(frozen=True)
class ContestOutcome:
    """Right answers, both kinds of seconds and attempts of a whole contest."""

    right: int
    engine_seconds: float
    wall_seconds: float
    started: int


def replay_contest(
    problems: Sequence[Sequence[Attempt]],
    policy: Policy,
    *,
    engine_seconds: float = math.inf,
    max_attempts: int = 8,
    concurrency: int = 8,
    parallel: int = 1,
) -> ContestOutcome:
    """Play the problems in this order.

    Args:
        problems: attempts of each, in order of start.
        policy: plays all of them; it sees the ledger's price and the mean attempt of the problems before.
        engine_seconds: of the whole contest, of which the ledger gives each problem its part; without a limit
            there is no ledger, and time has no price.
        max_attempts, concurrency, parallel: as in `Situation`.
    """
    limited = math.isfinite(engine_seconds)
    wall_limit = engine_seconds / concurrency
    fair = wall_limit / len(problems)
    # A problem has its fair share and what those before it saved. There is no cap: a limit that a majority of
    # eight does not have would cut off attempts that it lets end.
    ledger = Ledger(wall_limit, 0.0, 0.0, fair, math.inf, len(problems))
    right = started = 0
    used = wall = 0.0
    ended: list[float] = []
    for number, attempts in enumerate(problems):
        # The clock of a machine whose attempts share it: engine seconds over those side by side.
        facts = Facts(used / concurrency, number, used / concurrency)
        situation = Situation(
            max_attempts=max_attempts,
            concurrency=concurrency,
            parallel=parallel,
            typical_seconds=sum(ended) / len(ended) if ended else math.nan,
            price=ledger.price(facts) if limited else math.nan,
        )
        seconds = ledger.problem_seconds(facts) * concurrency if limited else math.inf
        outcome = replay(attempts, policy, situation, engine_seconds=seconds)
        right += outcome.answer == RIGHT
        used, wall = used + outcome.engine_seconds, wall + outcome.wall_seconds
        started += outcome.started
        ended += outcome.whole
    return ContestOutcome(right, used, wall, started)

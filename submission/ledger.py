"""The contest's time, as one ledger: what is kept, what each problem may take, what a second is worth.

Pure arithmetic; the caller brings the facts. What is kept back, in order: `reserve` for the end of the
contest, then `restart` for one restart of the engine, until there was one. The rest belongs to the problems.
Loading is everyone's loss: it goes into `elapsed` and not into `solving`, so no problem pays for it alone.

The number of problems is a belief. Whatever it says, at least `SPARE_SHARE` of what is left stays for
problems after this one, so one that comes unannounced still finds time; with no announced number each one
gets at most `UNKNOWN_SHARE`, and the time falls off geometrically.
"""

import math
from dataclasses import dataclass

UNKNOWN_SHARE = 1 / 10
"""Most of what is left for one problem, where nobody knows how many are to come."""
SPARE_SHARE = 1 / 10
"""Of what is left, kept for problems that nobody announced."""
RESTART_SHARE = 1 / 10
"""Most of what is left that is kept for a restart: near the end there is nothing to restart for."""
TIME_VALUE = 0.045
"""Right answers that one problem's fair share of time is worth at the margin, in a contest that uses just
what it has. Chosen by replay, where anything from 0.04 to 0.06 does; a little dear, since what one problem
saves the next one can use, but nothing helps the last when there is no time."""
MOST_CHEAP, MOST_DEAR = 8.0, 1.5
"""Most that the price falls and rises with the time that problems have been taking. It rises less: a price
that follows a few hard problems at the beginning gives up the easy votes that come after them."""

PRIOR_PROBLEMS = 3
"""A few hard problems at the beginning say little of the others."""


@dataclass(frozen=True)
class Facts:
    """What has happened so far.

    Args:
        elapsed: seconds since the contest began, loading included.
        answered: problems that have been answered.
        solving: seconds that those took, without loading and restarts.
        restarted: whether the engine has already had to be restarted.
    """

    elapsed: float = 0.0
    answered: int = 0
    solving: float = 0.0
    restarted: bool = False


@dataclass(frozen=True)
class Ledger:
    """Seconds throughout.

    Args:
        time_limit: contest length from process start.
        reserve: kept back at the end, never given to a problem.
        restart: kept for one restart of the engine, as far as `RESTART_SHARE` allows.
        floor: kept for each problem still to come, as long as that is affordable.
        cap: most for one problem.
        expected_problems: how many problems will come, None if unknown.
    """

    time_limit: float
    reserve: float
    restart: float
    floor: float
    cap: float
    expected_problems: int | None

    def available(self, facts: Facts) -> float:
        """Seconds that may still be given to problems, never negative."""
        left = max(0.0, self.time_limit - self.reserve - facts.elapsed)
        return left if facts.restarted else left - min(self.restart, RESTART_SHARE * left)

    def problems_left(self, facts: Facts) -> float:
        """Problems thought to come, this one included; 1 / `UNKNOWN_SHARE` where nobody knows."""
        if self.expected_problems is None or facts.answered >= self.expected_problems:
            return 1 / UNKNOWN_SHARE
        return self.expected_problems - facts.answered

    def fair_seconds(self, facts: Facts) -> float:
        """Seconds for each problem still to come if all took the same."""
        return self.available(facts) / self.problems_left(facts)

    def problem_seconds(self, facts: Facts) -> float:
        """Seconds that the next problem may take, 0 when the time is out.

        What earlier problems did not use is carried over: whatever exceeds `floor` for each problem still to
        come is at this one's disposal, up to `cap`. Over any sequence of problems that keep to their seconds,
        announced or not, the sum never exceeds `time_limit - reserve`.
        """
        available, left = self.available(facts), self.problems_left(facts)
        fair = available / left
        if self.expected_problems is None or facts.answered >= self.expected_problems:
            return min(self.cap, fair)
        spare = min(available - self.floor * (left - 1), available * (1 - SPARE_SHARE))
        # Alone with an unlikely successor, a problem's fair share is all there is.
        fair = min(fair, available * (1 - SPARE_SHARE))
        return min(self.cap, max(fair, spare))

    def price(self, facts: Facts) -> float:
        """Right answers that a second is worth at the problems still to come; infinite when the time is out.

        In a contest that uses just what it has, a problem's fair share is worth `TIME_VALUE`. It is worth
        less where problems have been taking less than is now there for each, since what is left at the end is
        worth nothing, and more where they have been taking more: in proportion to the square of that
        ratio, within `MOST_CHEAP` and `MOST_DEAR`, with the fair share as `PRIOR_PROBLEMS` more observations.
        """
        fair = self.fair_seconds(facts)
        if fair <= 0:
            return math.inf
        usual = (facts.solving + PRIOR_PROBLEMS * fair) / (facts.answered + PRIOR_PROBLEMS)
        scarcity = min(max((usual / fair) ** 2, 1 / MOST_CHEAP), MOST_DEAR)
        return TIME_VALUE * scarcity / fair

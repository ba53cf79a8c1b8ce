"""How many seconds the next problem may take. Pure arithmetic; the caller brings the clock.

The rule is that of the strongest AIMO entries (clamp(left - kept_for_others, floor, cap)), with a fair
share instead of the floor once the floor itself is no longer affordable, so that the limit always holds.
"""

from dataclasses import dataclass

# With no announced number of problems, each one gets at most this share of what is left: the time then
# falls off geometrically and never runs out.
UNKNOWN_SHARE = 1 / 10


@dataclass(frozen=True)
class Budget:
    """Seconds throughout.

    Args:
        time_limit: contest length from process start.
        reserve: kept back at the end, never given to a problem.
        floor: kept for each problem still to come, as long as that is affordable.
        cap: most for one problem.
        expected_problems: how many problems will come, None if unknown.
    """

    time_limit: float
    reserve: float
    floor: float
    cap: float
    expected_problems: int | None

    def available(self, elapsed: float) -> float:
        """Seconds that may still be given to problems, never negative."""
        return max(0.0, self.time_limit - self.reserve - elapsed)

    def problem_seconds(self, elapsed: float, answered: int) -> float:
        """Seconds for the problem that comes after `answered` others, 0 when the time is out.

        Time that earlier problems did not use is carried over: whatever exceeds `floor` for each problem
        still to come is at this problem's disposal, up to `cap`. The sum over any sequence of problems
        that keep to their seconds never exceeds `time_limit - reserve`.
        """
        available = self.available(elapsed)
        if self.expected_problems is None or answered >= self.expected_problems:
            return min(self.cap, available * UNKNOWN_SHARE)
        left = self.expected_problems - answered
        fair = available / left
        spare = available - self.floor * (left - 1)
        return min(self.cap, max(fair, spare))

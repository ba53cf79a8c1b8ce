"""Sentences of the story: what a phase adds, or that the data cannot tell. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.story.phases import Gain, Measure


@dataclass(frozen=True)
class Told:
    """A sentence; `sign` is 1 for a gain and -1 for a loss that is told from chance, else 0."""

    text: str
    sign: int


def title_of(measure: Measure, samples: int) -> str:
    """How a measure is called on the page."""
    return {"pass": "pass@1", "maj": f"maj@{samples}", "prm": f"PRM-weighted@{samples}"}[measure]


def told(gains: Sequence[Gain], samples: int) -> list[Told]:
    """One sentence a difference, phase by phase; what a phase's scores do to its vote comes first of it.

    What is left exactly as it was, on every problem, is told in one sentence.
    """
    found = []
    for phase in dict.fromkeys(one.phase for one in gains):
        mine = sorted((one for one in gains if one.phase == phase), key=lambda one: bool(one.before))
        same = [one for one in mine if one.before and one.same]
        found += [Told(_sentence(one, samples), sign_of(one)) for one in mine if one not in same]
        if same:
            names = " and ".join(title_of(one.measure, samples) for one in same)
            found.append(Told(f"{phase} leaves {names} as before on every problem", 0))
    return found


def sign_of(gain: Gain) -> int:
    """1 or -1 where the interval is clear of zero."""
    if not gain.difference.clear_of_zero:
        return 0
    return 1 if gain.difference.mean > 0 else -1


def spelled(gain: Gain) -> str:
    """The difference in points with its interval."""
    mean, low, high = (100 * side for side in gain.difference)
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _sentence(gain: Gain, samples: int) -> str:
    who = gain.phase if gain.before else f"{gain.phase}: weighing the votes by step scores"
    # Its own plain vote is what the scores of a phase are held against.
    what = title_of(gain.measure if gain.before else "maj", samples)
    sign = sign_of(gain)
    if sign > 0:
        return f"{who} adds {spelled(gain)} to {what}"
    if sign < 0:
        mean, low, high = (-100 * side for side in gain.difference)
        return f"{who} takes {mean:.1f} points [{high:.1f}, {low:.1f}] from {what}"
    return f"{who} moves {what} by {spelled(gain)}, not told from chance"

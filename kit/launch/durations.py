"""Times as people and Slurm write them, in whole minutes: `4h`, `1d12h`, `90`, `04:00:00`, `2-12:00`."""

import math
import re

_HUMAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?", re.ASCII)
_SLURM = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)
_UNLIMITED = {"infinite", "unlimited", "n/a", "none", ""}


def minutes_of(text: str) -> int:
    """Minutes, rounded up.

    Raises:
        ValueError: the text is no time, or is none above zero.
    """
    found = _human(text.strip().lower()) or _slurm(text.strip())
    if not found:
        raise ValueError(
            f"time {text!r} is not of a form such as 90 (minutes), 4h, 1d12h, 04:00:00 or 2-12:00:00"
        )
    return found


def limit_of(text: str) -> int | None:
    """Minutes of a limit that Slurm prints; None where there is none."""
    return None if text.strip().lower() in _UNLIMITED else minutes_of(text)


def _human(text: str) -> int:
    match = _HUMAN.fullmatch(text)
    if match is None:
        return 0
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def _slurm(text: str) -> int:
    """`minutes[:seconds]`, `hours:minutes:seconds`, and after `days-` hours first (sbatch --time)."""
    match = _SLURM.fullmatch(text)
    if match is None:
        return 0
    days, *parts = match.groups()
    first, second, third = (int(part or 0) for part in parts)
    if days is not None or parts[2] is not None:
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = 0, first, second
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + math.ceil(seconds / 60)

"""Durations as people write them: 90s, 300m, 5h, 1h30m."""

import math
import re

_PART = re.compile(r"(\d+(?:\.\d+)?)([smh])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
MOST = 30 * 86_400.0


def parse_duration(text: str) -> float:
    """Seconds of a duration: a number, or numbers with units s, m, h ("300m", "1h30m").

    Raises:
        ValueError: another spelling, zero, or over 30 days.
    """
    plain = text.strip().lower()
    parts = _PART.findall(plain)
    if parts and "".join(number + unit for number, unit in parts) == plain:
        seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(plain)
        except ValueError:
            seconds = math.nan
    if not 0 < seconds <= MOST:
        raise ValueError(f"duration {text!r}: expected seconds, or like 90s, 300m, 5h, 1h30m, up to 30 days")
    return seconds


def spell_duration(seconds: float) -> str:
    """Two units at most: "4 h 10 min", "3 min 5 s", "12 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"

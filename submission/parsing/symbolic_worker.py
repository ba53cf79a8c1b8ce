"""The child of `submission.parsing.symbolic`: compares answers with math-verify until its input ends.

Run as `python -m submission.parsing.symbolic_worker SECONDS`. One JSON object a line each way:
{"ready": true} first, then {"prediction", "gold"} in and {"equal": bool} out. A model's text only ever meets
math-verify's ANTLR grammar for LaTeX; its plain-expression reader, which evaluates Python, is not used. Its
own time-outs are off, since they are signals: the parent kills this process instead.
"""

import functools
import json
import logging
import os
import re
import resource
import sys
from collections.abc import Callable
from typing import IO, Any

MEMORY_BYTES = 2 << 30
_REPEATING = re.compile(r"\\overline\s*\{[0-9]")


def main() -> None:
    """Serve until end of input."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    # The protocol keeps the real stdout; what a library prints goes nowhere.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    _limit_resources()
    try:
        compare = make_comparer()
    except ImportError as error:
        _send(replies, {"error": str(error)})
        return
    _send(replies, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_cpu(seconds)
        _send(replies, {"equal": compare(request["prediction"], request["gold"])})


def make_comparer() -> Callable[[str, str], bool]:
    """Import math-verify and return (prediction, gold) -> equal, for texts in canonical LaTeX."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    # Units were taken off by `submission.parsing.spelling`, which knows "4t" from "4 tons", as
    # math-verify does not.
    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    latex = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=spelling)

    @functools.lru_cache(maxsize=256)
    def read(text: str) -> list[Any]:
        inside = text.replace("$", "").replace("%", r"\%")
        return list(parse(f"${inside}$", [latex], fallback_mode="no_fallback", parsing_timeout=None))

    def compare(prediction: str, gold: str) -> bool:
        # math-verify reads 0.\overline{3} as 0.
        if _REPEATING.search(prediction) or _REPEATING.search(gold):
            return False
        expected = read(gold)
        given = read(prediction) if expected else []
        return bool(expected and given and verify(expected, given, timeout_seconds=None))

    return compare


def _send(replies: IO[str], message: dict[str, object]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _limit_resources() -> None:
    for kind, amount in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (bound, bound))


def _limit_cpu(seconds: float) -> None:
    """End this process by the kernel's hand soon after its time, should the parent no longer be there to."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    if hard == resource.RLIM_INFINITY or soft <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()

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

from submission.parsing.agreement import contradicted, proven

MEMORY_BYTES = 2 << 30
# math-verify reads 0.\overline{3} as 0, \pmod as \pm od, and passes over \ldots.
_MISREAD = re.compile(r"\\overline\s*\{[0-9]|\\pmod(?![a-z])|\\ldots")
_WHOLE_AND_FRACTION = re.compile(r"(?<![0-9.])[0-9]+\\frac\{([0-9]{1,20})\}\{([0-9]{1,20})\}")
_BARE_LOG = re.compile(r"\\log(?![a-zA-Z_])")


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
    import math_verify.parser
    from latex2sympy2_extended import NormalizationConfig
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    # R and r are two radii; math-verify has no argument to keep them apart.
    math_verify.parser.latex2sympy = functools.partial(
        math_verify.parser.latex2sympy, conversion_config=ConversionConfig(lowercase_symbols=False)
    )
    # Units were taken off by `submission.parsing.spelling`, which knows "4t" from "4 tons", as
    # math-verify does not.
    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    latex = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=spelling)

    @functools.lru_cache(maxsize=256)
    def read(text: str) -> list[Any]:
        inside = text.replace("$", "").replace("%", r"\%")
        found = parse(f"${inside}$", [latex], fallback_mode="no_fallback", parsing_timeout=None)
        return [_settled(each) for each in found]

    def compare(prediction: str, gold: str) -> bool:
        if _misread(prediction) or _misread(gold):
            return False
        prediction, gold = _same_logarithm(prediction, gold)
        expected = read(gold)
        given = read(prediction) if expected else []
        decimal = "." in prediction + gold
        return any(agree(one, other, decimal) for one in expected for other in given)

    def agree(expected: Any, given: Any, decimal: bool) -> bool:
        equal = bool(verify(expected, given, timeout_seconds=None, allow_set_relation_comp=True))
        try:
            return not contradicted(expected, given, decimal=decimal) if equal else proven(expected, given)
        except Exception:  # noqa: BLE001  sympy raises anything on a model's text; the first verdict stands
            return equal

    return compare


def _misread(text: str) -> bool:
    if _MISREAD.search(text):
        return True
    # Eleven and 6/6: a product, a sum, or a slip.
    return any(int(above) >= int(below) for above, below in _WHOLE_AND_FRACTION.findall(text))


def _same_logarithm(prediction: str, gold: str) -> tuple[str, str]:
    r"""Where one side writes \ln and the other \log without a base, both mean the natural one."""
    for ours, other in ((prediction, gold), (gold, prediction)):
        if r"\ln" in other and _BARE_LOG.search(ours) and not _BARE_LOG.search(other):
            return _BARE_LOG.sub(r"\\ln", prediction), _BARE_LOG.sub(r"\\ln", gold)
    return prediction, gold


def _settled(answer: Any) -> Any:
    """With i as the imaginary unit, named coordinates in the order of the names, and f(t) = ... in x."""
    from latex2sympy2_extended.sets import FiniteSet
    from sympy import Basic, Eq, I, Symbol
    from sympy.core.function import AppliedUndef

    if not isinstance(answer, Basic):
        return answer
    letters = {
        symbol: I for symbol in answer.free_symbols if isinstance(symbol, Symbol) and symbol.name == "i"
    }
    if letters:
        return answer.subs(letters)
    if isinstance(answer, Eq) and isinstance(answer.lhs, AppliedUndef) and len(answer.lhs.args) == 1:
        variable, usual = answer.lhs.args[0], Symbol("x", real=True)
        renamed = isinstance(variable, Symbol) and usual not in answer.free_symbols
        return answer.subs(variable, usual) if renamed else answer
    if isinstance(answer, FiniteSet) and all(
        isinstance(one, Eq) and one.lhs.is_Symbol for one in answer.args
    ):
        names = {str(one.lhs) for one in answer.args}
        if len(names) == len(answer.args) > 1:
            return FiniteSet(*sorted(answer.args, key=lambda one: str(one.lhs)))
    return answer


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

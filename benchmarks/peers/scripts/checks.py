"""math-verify as its own documentation uses it: `parse` with boxes first, then `verify`, default time-outs.

Settings: {}. Requests: {"pairs": file of JSON lines with `completion` and `gold`} loads a corpus and warms
up; {"start": i, "step": k} checks every k-th pair from i on, and gives `equal` of each and the `seconds` of
all.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy")


@contextmanager
def opened(_settings: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Requests to verdicts."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    pairs: list[dict[str, str]] = []
    golds: dict[str, Any] = {}

    def check(pair: dict[str, str]) -> bool:
        return bool(verify(golds[pair["gold"]], parse(pair["completion"], targets)))

    def answer(request: dict[str, Any]) -> Any:
        if "pairs" in request:
            text = Path(request["pairs"]).read_text(encoding="utf-8")
            pairs[:] = map(json.loads, text.splitlines())
            # Golds are read once, at load time.
            golds.clear()
            golds.update({gold: parse(f"${gold}$", targets) for gold in {pair["gold"] for pair in pairs}})
            check(pairs[0])  # imports and caches are warm before the clock starts
            return len(pairs)
        verdicts, seconds = [], 0.0
        for pair in pairs[request["start"] :: request["step"]]:
            began = time.perf_counter()
            verdicts.append(check(pair))
            seconds += time.perf_counter() - began
        return {"equal": verdicts, "seconds": seconds}

    yield answer

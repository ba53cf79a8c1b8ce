import json

import pytest

from benchmarks.__main__ import FIGURES, PAGE, page
from benchmarks.overhead import Pair, summary


def test_the_page_is_what_the_figures_say() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(figures)


def test_the_overhead_is_compared_at_equal_tokens() -> None:
    # Twice the tokens in twice the time is no overhead; 10 % more time at equal tokens is.
    figures = summary([Pair(10, 100, 20, 200), Pair(10, 100, 11, 100)])
    assert figures["ratio"] == pytest.approx((31 / 300) / (20 / 200))
    assert figures["median_ratio"] == pytest.approx(1.05)

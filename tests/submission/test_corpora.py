"""The answer checker on what other checkers are tested on; what we see differently is stated as such."""

from collections.abc import Iterator

import pytest

from submission.answers import check, parse_gold
from submission.parsing.symbolic import SymbolicChecker
from tests.submission.corpora import CORPORA, DIFFERENCES


@pytest.fixture(scope="module")
def checker() -> Iterator[SymbolicChecker]:
    with SymbolicChecker(timeout=20) as checker:
        yield checker


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "math-verify" else name for name in CORPORA],
)
def test_a_corpus_of_another_checker(name: str, checker: SymbolicChecker) -> None:
    wrong = [
        (gold, answer, equal)
        for gold, answer, equal in CORPORA[name]
        if check(answer, parse_gold(gold), checker, last_number=True) is not equal
    ]
    assert not wrong


@pytest.mark.parametrize(("gold", "answer", "ours", "reason"), DIFFERENCES)
def test_where_we_differ_on_purpose(
    gold: str, answer: str, ours: bool, reason: str, checker: SymbolicChecker
) -> None:
    assert check(answer, parse_gold(gold), checker, last_number=True) is ours, reason


def test_a_formula_is_not_its_last_number(checker: SymbolicChecker) -> None:
    for gold, answer in (("2", "\u00b12"), ("2", "(1,2)"), ("5", "x+5"), ("6/5", "11 6/5"), ("2", "1 or 2")):
        assert not check(answer, parse_gold(gold), checker, last_number=True), answer
    assert check("there were 12 of them", parse_gold("12"), last_number=True)
    assert check("a length of 2 1/4", parse_gold("9/4"), last_number=True)


def test_nothing_was_cut_off(checker: SymbolicChecker) -> None:
    """Runs last in this file: no pair above was decided by a time-out or a crash."""
    assert checker.equal("x+x", "2x")
    assert (checker.timeouts, checker.crashes) == (0, 0)

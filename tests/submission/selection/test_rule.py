import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from submission.selection.candidate import Candidate
from submission.selection.rule import PLAIN, Method, Rule, known_share, ranked, weights
from submission.selection.voting import majority

anything = st.floats(allow_nan=True, allow_infinity=True)
candidates = st.lists(
    st.builds(
        Candidate,
        st.none() | st.integers(0, 3),
        tokens=st.integers(0, 10**6),
        logprob=anything,
        entropy=anything,
        steps=st.lists(anything, max_size=3).map(tuple),
    ),
    max_size=8,
)
rules = st.builds(
    Rule,
    method=st.sampled_from(["majority", "prm", "best_of_n", "logprob", "entropy", "length"]),
    aggregate=st.sampled_from(["min", "mean", "last", "product"]),
    temperature=st.floats(1e-6, 1e6),
    blend=st.floats(0, 1),
)


def scored(*pairs: tuple[int | None, tuple[float, ...]]) -> list[Candidate]:
    return [Candidate(answer, steps=steps) for answer, steps in pairs]


def test_the_aggregates_choose_differently() -> None:
    found = scored((1, (0.9, 0.2, 0.9)), (2, (0.6, 0.5, 0.4)), (3, (0.1, 0.1, 1.0)))
    # min 0.2, 0.4, 0.1; mean 0.67, 0.5, 0.4; last 0.9, 0.4, 1; product 0.162, 0.12, 0.01.
    winners = {"min": 2, "mean": 1, "last": 3, "product": 1}
    for how, winner in winners.items():
        for method in ("prm", "best_of_n"):
            rule = Rule.model_validate({"method": method, "aggregate": how})
            assert ranked(found, rule)[0].answer == winner, rule
    assert ranked(found)[0].answer == 1, "the plain vote: the first"


def test_weighted_votes_by_hand() -> None:
    found = [Candidate(1, 10, logprob=-20.0), Candidate(1, 10, logprob=-20.0), Candidate(2, 10, logprob=-5.0)]
    # Mean log-probabilities -2, -2, -0.5: weights e^-1.5 = 0.223 twice against 1.
    assert ranked(found, Rule(method="logprob"))[0].answer == 2
    assert weights(found, Rule(method="logprob")) == pytest.approx([math.exp(-1.5)] * 2 + [1])
    # Half blended: 2 * (0.5 + 0.112) against 1.
    assert ranked(found, Rule(method="logprob", blend=0.5))[0].answer == 1
    assert weights(found, Rule(method="logprob", blend=0.5)) == pytest.approx(
        [0.5 + 0.5 * math.exp(-1.5)] * 2 + [1]
    )


def test_too_little_known_is_the_plain_vote() -> None:
    found = scored((1, ()), (1, ()), (1, ()), (2, (0.9,)))
    assert known_share(found, "prm") == 1 / 4
    assert ranked(found, Rule(method="best_of_n"))[0].answer == 1
    found = scored((1, ()), (1, ()), (2, (0.9,)), (2, (math.nan,)), (3, (1.0,)), (None, ()))
    assert known_share(found, "prm") == 2 / 5
    assert known_share(found[2:5], "prm") == 2 / 3
    assert ranked(found[2:5], Rule(method="best_of_n"))[0].answer == 3
    assert known_share([], "prm") == 0


@given(candidates, rules)
def test_any_rule_ranks_the_answers_that_there_are(found: list[Candidate], rule: Rule) -> None:
    answers = [one.answer for one in found]
    assert {one.answer for one in ranked(found, rule)} == set(answers) - {None}
    assert all(0 <= weight <= 1 + 1e-15 for weight in weights(found, rule))
    assert ranked(found, PLAIN) == majority(answers)


@given(candidates, st.sampled_from(["prm", "logprob", "entropy", "length"]))
def test_blend_zero_is_the_plain_vote(found: list[Candidate], method: Method) -> None:
    assert ranked(found, Rule(method=method, blend=0.0)) == majority([one.answer for one in found])


@pytest.mark.parametrize(
    "field", [{"temperature": 0.0}, {"blend": 1.5}, {"method": "luck"}, {"aggregate": "max"}, {"more": 1}]
)
def test_parameters_out_of_range(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate(field)


def test_rules_are_told_in_words() -> None:
    assert str(PLAIN) == "majority"
    assert str(Rule(method="prm", temperature=0.1, blend=0.5)) == "prm (min, T 0.1, blend 0.5)"
    assert str(Rule(method="best_of_n", aggregate="last")) == "best_of_n (last)"
    assert str(Rule(method="length")) == "length (T 1, blend 1)"

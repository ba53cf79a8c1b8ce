"""When the verifier is asked after a policy's stop: by hand, and what holds for every policy."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hyp_settings
from hypothesis import strategies as st

from submission.policies import Decision, Policy, Situation, fixed, ours, with_second_opinion
from submission.policies.second_opinion import VERIFIER_SKILL, worth_asking
from submission.selection.candidate import Candidate
from submission.settings import SolverSettings
from submission.solving.deciding import make_policy
from tests.submission.policies.test_policies import POLICIES, situation, situations

SPLIT = (7, 7, 8, 8)
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
few = hyp_settings(max_examples=40, deadline=None)
asked = st.builds(replace, situations, verifier_seconds=st.floats(0, 2e4) | st.just(math.inf))


def full(answers: Sequence[int | None], **changes: Any) -> Situation:
    """All attempts have ended; a second look would take 10 seconds."""
    return situation(answers, **{"max_attempts": len(answers), "verifier_seconds": 10.0, **changes})


# --- by hand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "changes", "asks"),
    [
        (SPLIT, {}, True),
        ((7, 7, 7, 7), {}, False),
        ((7, None, None), {}, False),
        ((7, 8, None, None), {}, True),
        ((None, None), {}, False),
        # Its own time.
        (SPLIT, {"seconds_left": 10.0}, True),
        (SPLIT, {"seconds_left": 9.9}, False),
        (SPLIT, {"seconds_left": 0.0, "verifier_seconds": 0.0}, False),
        (SPLIT, {"verifier_seconds": math.inf}, False),
        # The time of others: a tenth of the runner-up's half is 0.05, ten seconds at 0.005 each.
        (SPLIT, {"price": 0.0049}, True),
        (SPLIT, {"price": 0.0051}, False),
        (SPLIT, {"price": math.inf}, False),
        (SPLIT, {"price": math.inf, "verifier_seconds": 0.0}, False),
        # Of eight attempts the runner-up has one: 0.0125.
        ((7, 7, 8, 1, 2, 3, None, None), {"price": 0.0012}, True),
        ((7, 7, 8, 1, 2, 3, None, None), {"price": 0.0013}, False),
    ],
)
def test_what_is_worth_asking(answers: Sequence[int | None], changes: dict[str, Any], *, asks: bool) -> None:
    assert worth_asking(full(answers, **changes)) is asks


@pytest.mark.parametrize("reason", ["agree", "uncatchable", "consensus", "all finished", "none confident"])
def test_a_narrow_agreement_is_a_split_vote_too(reason: str) -> None:
    policy = with_second_opinion(lambda _: Decision(stop=reason, answer=7))
    assert policy(full((7, 7, 7, 7, 8, 8, 8))) == Decision(verify=True)
    assert policy(full((7, 7, 7, 7, None))) == Decision(stop=reason, answer=7)


@pytest.mark.parametrize(
    ("name", "asks", "decided"),
    [
        ("agree", (1, 1, 1, 2, 2, 2, 3, 3), (1, 1, 1, 1, None)),
        ("fixed", (1, 1, 1, 1, 2, 2, 2, 3), (1,) * 8),
        ("adaptive", (1, 1, 1, 1, 2, 2, 2, 2), (1, 1, 1, 1)),
        ("deepconf", (1, 1, 1, 1, 2, 2, 2, 2), (1, 1, 1, 1)),
        ("value", (1, 1, 1, 1, 2, 2, 2, 2), (1, 1, 1, 1)),
    ],
)
def test_the_settings_policies_ask_where_votes_are_split(
    name: Any, asks: Sequence[int], decided: Sequence[int]
) -> None:
    policy = make_policy(SolverSettings(policy=name))
    assert policy(full(asks, price=0.001)) == Decision(verify=True)
    assert policy(full(asks, price=0.001, verifier_seconds=math.inf)).stop == "all finished"
    assert policy(full(decided, price=0.001, max_attempts=8)).stop


def test_samples_come_first() -> None:
    policy = with_second_opinion(fixed(8))
    assert policy(situation(SPLIT, running=2, verifier_seconds=1.0)) == Decision(run=2)
    assert policy(situation(SPLIT, running=4, verifier_seconds=1.0)) == Decision()


# --- every policy ------------------------------------------------------------------------------------


@every_policy
@few
@given(now=situations)
def test_without_anybody_to_ask_nothing_changes(policy: Policy, now: Situation) -> None:
    assert math.isinf(now.verifier_seconds)
    assert with_second_opinion(policy)(now) == policy(now)


@every_policy
@few
@given(now=asked)
def test_a_stop_alone_becomes_a_question_and_only_once(policy: Policy, now: Situation) -> None:
    alone, both = policy(now), with_second_opinion(policy)(now)
    if both != alone:
        assert alone.stop
        assert both == Decision(verify=True)
    if both.verify:
        assert now.seconds_left > 0
        assert now.verifier_seconds <= now.seconds_left
        assert len({one.answer for one in now.finished} - {None}) > 1
        after = replace(now, verifier_seconds=math.inf)
        assert with_second_opinion(policy)(after) == policy(after)
        assert policy(after).stop


@few
@given(now=asked)
def test_ours_has_weighed_it_already(now: Situation) -> None:
    assert with_second_opinion(ours)(now) == ours(now)


@few
@given(now=asked, factor=st.floats(0, 1))
def test_less_time_or_a_higher_price_never_make_it_worth_asking(now: Situation, factor: float) -> None:
    if worth_asking(now):
        assert worth_asking(replace(now, price=now.price * factor))
        assert worth_asking(replace(now, verifier_seconds=now.verifier_seconds * factor))
        assert worth_asking(replace(now, seconds_left=math.inf))
    else:
        assert not worth_asking(replace(now, seconds_left=now.seconds_left * factor))


@few
@given(now=asked, order=st.randoms(use_true_random=False))
def test_neither_names_nor_order_matter(now: Situation, order: Any) -> None:
    found = [replace(one, answer=one.answer and f"x{one.answer}") for one in now.finished if one.answer != 0]
    order.shuffle(found)
    kept = tuple(one for one in now.finished if one.answer != 0)
    assert worth_asking(replace(now, finished=kept)) == worth_asking(replace(now, finished=tuple(found)))


@few
@given(votes=st.lists(st.integers(1, 6), min_size=2, max_size=4), seconds=st.floats(0.1, 1e3))
def test_the_price_at_which_it_stops_paying(votes: list[int], seconds: float) -> None:
    finished = tuple(Candidate(name) for name, count in enumerate(votes) for _ in range(count))
    limit = VERIFIER_SKILL * sorted(votes)[-2] / sum(votes) / seconds
    now = Situation(finished=finished, verifier_seconds=seconds, price=limit * 0.99)
    assert worth_asking(now)
    assert not worth_asking(replace(now, price=limit * 1.01))

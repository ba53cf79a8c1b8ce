"""Each policy on cases worked out by hand, and what holds for all of them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.policies import (
    Decision,
    Policy,
    Running,
    Situation,
    adaptive_consistency,
    deepconf,
    first_agree,
    fixed,
    ours,
    uncatchable,
)
from submission.policies.adaptive_consistency import majority_probability
from submission.policies.deepconf import confidence
from submission.policies.situation import plurality
from submission.selection.candidate import Candidate

POLICIES: dict[str, Policy] = {
    "fixed": fixed(8),
    "first agree": first_agree(4),
    "uncatchable": uncatchable,
    "adaptive consistency": adaptive_consistency(),
    "deepconf": deepconf(),
    "ours": ours,
}


def situation(answers: Sequence[int | None], running: int = 0, **changes: Any) -> Situation:
    """`answers` have arrived, each after 10 seconds; `running` others are half way."""
    return Situation(
        finished=tuple(Candidate(answer, tokens=1_000, seconds=10.0) for answer in answers),
        running=tuple(Running(len(answers) + index, 500, 5.0) for index in range(running)),
        **changes,
    )


# --- by hand -----------------------------------------------------------------------------------------


def test_fixed_draws_its_number_and_takes_the_majority() -> None:
    assert fixed(5)(Situation()) == Decision(run=5)
    assert fixed(5)(Situation(concurrency=3)) == Decision(run=3)
    assert fixed(5)(situation([7, 8], running=3)) == Decision()
    assert fixed(5)(situation([7, 8, 8, 7, 8])) == Decision(stop="all finished", answer=8)


def test_first_agree_stops_at_its_number_of_votes() -> None:
    assert first_agree(3)(situation([7, 8, 7, None], running=4)) == Decision()
    assert first_agree(3)(situation([7, 8, 7, 7], running=4)) == Decision(stop="agree", answer=7)


def test_uncatchable_counts_every_open_vote_for_the_runner_up() -> None:
    # 4 against 1 with three open: 1 + 3 would only draw level.
    assert uncatchable(situation([7, 7, 7, 7, 8], running=3)) == Decision()
    assert uncatchable(situation([7, 7, 7, 7, 7], running=3)).stop == "uncatchable"
    # An attempt without an answer is one vote fewer for the others.
    assert uncatchable(situation([7, 7, 7, 7, 8, None], running=2)).stop == "uncatchable"


def test_beta_posterior_by_hand() -> None:
    # Beta(n + 1, 1): 1 - 2^-(n + 1). Beta(4, 2): 1 - (1 + 5) / 32.
    assert majority_probability(3, 0) == 1 - 1 / 16
    assert majority_probability(4, 0) == 1 - 1 / 32
    assert majority_probability(3, 1) == 1 - 6 / 32
    assert majority_probability(5, 5) == 0.5


def test_adaptive_consistency_draws_one_at_a_time() -> None:
    policy = adaptive_consistency(0.95)
    assert policy(Situation()) == Decision(run=1)
    assert policy(situation([7, 7, 7])) == Decision(run=1)
    assert policy(situation([7, 7, 7], running=1)) == Decision()
    assert policy(situation([7, 7, 7, 7])) == Decision(stop="agree", answer=7)
    assert adaptive_consistency(0.95, width=3)(situation([7], running=1)) == Decision(run=2)


def sure(answer: int | None, probability: float) -> Candidate:
    return Candidate(answer, tokens=1_000, logprob=1_000 * math.log(probability), seconds=10.0)


def test_deepconf_cuts_off_the_unsure_and_weighs_the_others() -> None:
    policy = deepconf(warmup=2, keep=1.0, consensus=0.9)
    warm = (sure(7, 0.8), sure(8, 0.6))
    unsure = Running(2, 300, 3.0, 300 * math.log(0.5))
    steady = Running(3, 300, 3.0, 300 * math.log(0.7))
    early = Running(4, 100, 1.0, 100 * math.log(0.1))
    running = (unsure, steady, early)
    assert policy(Situation(finished=warm, running=running, max_attempts=5)) == Decision(abort=(2,))
    # 7 has 1.6 of 2.2 in weight, then 8.0 of 8.6: past nine tenths.
    assert policy(Situation(finished=(*warm, sure(7, 0.8)), running=(steady,), max_attempts=4)) == Decision()
    many = (*warm, *[sure(7, 0.8)] * 9)
    assert policy(Situation(finished=many, running=(steady,), max_attempts=16)).stop == "consensus"


def test_deepconf_lets_one_sure_attempt_win_against_filtered_ones() -> None:
    finished = (sure(7, 0.9), sure(7, 0.9), sure(8, 0.3), sure(8, 0.3), sure(8, 0.3))
    # Of a warm-up of two, the better half sets the bar at 0.9: the three attempts for 8 do not pass.
    decision = deepconf(warmup=2, keep=0.5)(Situation(finished=finished, max_attempts=5))
    assert decision.answer == 7


def test_confidence_is_a_mean_probability() -> None:
    assert confidence(4 * math.log(0.5), 4) == pytest.approx(0.5)
    assert confidence(math.nan, 4) == confidence(-math.inf, 4) == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: fixed(0),
        lambda: first_agree(0),
        lambda: adaptive_consistency(0.5),
        lambda: adaptive_consistency(width=0),
        lambda: deepconf(warmup=0),
        lambda: deepconf(keep=0),
        lambda: deepconf(consensus=1.5),
    ],
)
def test_impossible_settings_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="it must"):
        make()


# --- ours --------------------------------------------------------------------------------------------


def priced(cost: float, **changes: Any) -> dict[str, Any]:
    """A price at which an attempt of 10 seconds costs `cost` right answers."""
    return {"price": cost * 8 / 10, "typical_seconds": 10.0, **changes}


def test_ours_begins_with_what_must_be_seen() -> None:
    first = ours(Situation(**priced(0.003)))
    assert 2 <= first.run <= 4
    assert ours(Situation(**priced(0.003), parallel=6)).run == 6
    # Where time is dear, one answer has to do.
    assert ours(Situation(**priced(0.2))).run == 1


def test_ours_stops_when_attempts_agree_and_goes_on_when_they_do_not() -> None:
    assert ours(situation([7, 7, 7, 7], **priced(0.003))) == Decision(stop="agree", answer=7)
    split = ours(situation([7, 7, 8, 8], **priced(0.003, max_attempts=16)))
    assert split.run >= 1
    assert ours(situation([7, 7, 8, 8], **priced(0.2))).stop == "not worth the time"


def test_ours_gives_up_sooner_where_nothing_comes() -> None:
    def drawn(cost: float) -> int:
        count = 0
        while ours(situation([None] * count, **priced(cost, max_attempts=40))).run:
            count += 1
        return count

    assert 1 <= drawn(0.05) < drawn(0.01) < 40


def test_what_is_nearly_done_may_end_where_a_new_attempt_would_not_begin() -> None:
    for cost in (0.001 * step for step in range(1, 200)):
        begin = ours(situation([7, 7, 8], **priced(cost)))
        wait = ours(replace(situation([7, 7, 8], **priced(cost)), running=(Running(3, 900, 9.0),)))
        if begin.stop and not wait.stop:
            assert wait == Decision()
            return
    pytest.fail("no price at which an attempt under way is let end and no new one begun")


def test_a_shorter_leader_is_believed_sooner() -> None:
    def drawn(leader: float, rival: float) -> Decision:
        seconds = {7: leader, 8: rival}
        finished = tuple(Candidate(answer, seconds=seconds[answer]) for answer in [7, 7, 7, 8, 8, 7, 8, 7])
        return ours(Situation(finished=finished, max_attempts=16, price=0.0045, typical_seconds=10.0))

    assert drawn(leader=14.0, rival=7.0).run
    assert drawn(leader=7.0, rival=14.0) == Decision(stop="agree", answer=7)


def test_few_attempts_run_side_by_side_where_time_is_short() -> None:
    # 80 seconds of the machine are 8 attempts of ten, twice over 4; 30 are 3, and 1 twice over.
    assert ours(Situation(**priced(0.003), seconds_left=80 / 8)).run == 3
    assert ours(Situation(**priced(0.003), seconds_left=30 / 8)).run == 1


def test_the_verifier_is_asked_about_competing_answers_only_and_once() -> None:
    split = situation([7, 7, 8, 8], max_attempts=4, verifier_seconds=5.0, price=0.001)
    assert ours(split) == Decision(verify=True)
    assert ours(replace(split, verifier_seconds=math.inf)).stop == "all finished"
    assert ours(replace(split, price=1.0)).stop == "all finished"
    assert ours(replace(split, seconds_left=4.0)).stop == "all finished"
    alone = situation([7, 7, 7, 7], max_attempts=4, verifier_seconds=5.0, price=0.001)
    assert ours(alone).stop == "all finished"


def test_equal_votes_go_to_the_answer_with_the_shortest_attempt() -> None:
    finished = tuple(Candidate(answer, seconds=s) for answer, s in [(7, 9.0), (8, 4.0), (7, 8.0), (8, 20.0)])
    assert plurality(Situation(finished=finished)) == 8
    assert plurality(situation([7, 8, 8, 7])) == 7
    assert plurality(situation([None])) is None


# --- all of them -------------------------------------------------------------------------------------

answers = st.lists(st.none() | st.integers(0, 4), max_size=14)
situations = st.builds(
    lambda found, running, spare, concurrency, parallel, left, typical, price, aborted: Situation(
        finished=tuple(
            Candidate(answer, tokens=1_000, logprob=-300.0, seconds=seconds) for answer, seconds in found
        ),
        running=running[:concurrency],
        aborted=aborted,
        max_attempts=len(found) + min(len(running), concurrency) + aborted + spare,
        concurrency=concurrency,
        parallel=parallel,
        seconds_left=left,
        typical_seconds=typical,
        price=price,
    ),
    st.lists(st.tuples(st.none() | st.integers(0, 4), st.floats(0, 1e4)), max_size=14),
    st.lists(
        st.builds(Running, st.integers(0, 99), st.integers(0, 9_999), st.floats(0, 1e4), st.floats(-1e4, 0)),
        max_size=8,
        unique_by=lambda run: run.attempt,
    ).map(tuple),
    st.integers(0, 8),
    st.integers(1, 8),
    st.integers(1, 8),
    st.floats(0, 1e4) | st.just(math.inf),
    st.floats(0, 1e4) | st.just(math.nan),
    st.floats(0, 1e3) | st.just(math.nan) | st.just(math.inf),
    st.integers(0, 3),
)
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())


@every_policy
@given(now=situations)
def test_no_policy_overdraws_or_waits_for_nothing(policy: Policy, now: Situation) -> None:
    decision = policy(now)
    assert decision == policy(now)
    if decision.stop:
        return
    assert now.seconds_left > 0
    left = len(now.running) - len(decision.abort)
    assert set(decision.abort) <= {run.attempt for run in now.running}
    assert 0 <= decision.run <= now.unstarted
    assert left + decision.run <= now.concurrency
    assert left + decision.run > 0


@every_policy
@given(now=situations)
def test_no_time_is_the_end(policy: Policy, now: Situation) -> None:
    assert policy(replace(now, seconds_left=0.0)).stop


@every_policy
@given(now=situations)
def test_the_names_of_answers_do_not_matter(policy: Policy, now: Situation) -> None:
    def renamed(candidate: Candidate) -> Candidate:
        return candidate if candidate.answer is None else replace(candidate, answer=f"x{candidate.answer}")

    there = policy(replace(now, finished=tuple(map(renamed, now.finished))))
    here = policy(now)
    answer = None if here.answer is None else f"x{here.answer}"
    assert there == replace(here, answer=answer)


@pytest.mark.parametrize("name", ["fixed", "first agree", "uncatchable", "adaptive consistency", "ours"])
@given(now=situations, order=st.randoms(use_true_random=False))
def test_the_order_of_arrival_decides_nothing_but_ties(name: str, now: Situation, order: Any) -> None:
    shuffled = list(now.finished)
    order.shuffle(shuffled)
    here, there = POLICIES[name](now), POLICIES[name](replace(now, finished=tuple(shuffled)))
    assert (here.run, here.abort, here.verify) == (there.run, there.abort, there.verify)
    assert bool(here.stop) == bool(there.stop)


@pytest.mark.parametrize("name", ["first agree", "uncatchable", "adaptive consistency"])
@given(found=answers, more=st.integers(1, 6))
def test_a_vote_that_is_decided_stays_decided_with_more_votes_for_the_leader(
    name: str, found: list[int | None], more: int
) -> None:
    decision = POLICIES[name](situation(found, max_attempts=len(found) + more))
    if decision.stop in {"agree", "uncatchable"}:
        leader: Any = decision.answer
        after = POLICIES[name](situation([*found, *[leader] * more], max_attempts=len(found) + more))
        assert after.stop
        assert after.answer == leader


@given(votes=st.integers(1, 8), others=st.lists(st.integers(1, 3), max_size=3), cost=st.floats(1e-4, 0.2))
def test_ours_never_starts_more_for_a_dearer_second(votes: int, others: list[int], cost: float) -> None:
    found = [0] * votes + [index + 1 for index, count in enumerate(others) for _ in range(count)]
    dear = ours(situation(found, **priced(cost * 3, max_attempts=40)))
    cheap = ours(situation(found, **priced(cost, max_attempts=40)))
    assert cheap.run > 0 or dear.run == 0

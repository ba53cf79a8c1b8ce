"""Contests whose outcome is known by hand, and what the scenarios' figures are made of."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hyp_settings
from hypothesis import strategies as st

from benchmarks.simulator.contest import Entry, Machine, draw_contest, simulate
from benchmarks.simulator.pool import RIGHT, PoolProblem, Pools, PoolSample, read_pools
from benchmarks.simulator.recording import Taken
from benchmarks.simulator.scenarios import Scenario, evaluate, facts, grid, play
from benchmarks.simulator.throughput import Curve
from submission.agents.team import load_team
from submission.selection.rule import Rule
from submission.settings import ContestSettings

ALONE = Machine(Curve(100.0, float("inf")))
"""Samples side by side at no loss."""


def settings(*overrides: str) -> ContestSettings:
    return ContestSettings.load(None, ["budget.floor=0", "budget.restart=0", "budget.reserve=0", *overrides])


def drawn(number: int, answer: int | None, work: float, steps: tuple[float, ...] = ()) -> PoolSample:
    text = "no answer" if answer is None else f"\\boxed{{{answer}}}"
    return PoolSample(f"sample {number}: {text}", answer, 50, work, steps=steps)


def problem(name: str, *samples: tuple[int | None, float]) -> PoolProblem:
    return PoolProblem(name, tuple(drawn(number, *one) for number, one in enumerate(samples)))


def entry(one: PoolProblem) -> Entry:
    return Entry(one, one.id, one.samples)


def test_votes_times_and_unanswered_problems_are_those_of_the_contest() -> None:
    entries = [
        entry(problem("won", (RIGHT, 10), (RIGHT, 20), (2, 30), (RIGHT, 40))),
        entry(problem("lost", (2, 10), (2, 20), (2, 30), (RIGHT, 5))),
        entry(problem("none", (None, 10), (None, 20), (None, 30), (None, 40))),
    ]
    found = simulate(entries, settings("solver.num_agents=4", "solver.agree=3"), ALONE)
    assert [one.right for one in found.problems] == [True, False, False]
    assert [one.at for one in found.problems] == pytest.approx([40, 70, 110])
    assert found.seconds == pytest.approx(110)
    assert (found.right, found.unanswered) == (1, 1)
    # Three that agree end the second problem when the fourth has long ended.
    assert [one.samples for one in found.problems] == [4, 4, 4]


def test_company_and_a_slower_machine_cost_time() -> None:
    one = entry(problem("p", (RIGHT, 10), (RIGHT, 10)))
    pair = settings("solver.num_agents=2", "solver.policy=fixed")
    half = Machine(Curve(100.0, 1.0))  # two at half speed each
    assert simulate([one], pair, half).seconds == pytest.approx(20)
    assert simulate([one], pair, replace(half, slower=1.5)).seconds == pytest.approx(30)
    assert simulate([one], pair, replace(half, load_seconds=7)).seconds == pytest.approx(27)


@given(
    st.lists(st.floats(0.1, 500), min_size=1, max_size=8),
    st.floats(0.3, 100),
)
@hyp_settings(max_examples=40, deadline=None)
def test_the_same_company_takes_the_recorded_time_whatever_the_curve(
    seconds: list[float], half: float
) -> None:
    taken = [
        Taken("p", "c", number, "7", right=True, tokens=50, seconds=one) for number, one in enumerate(seconds)
    ]
    pools = read_pools(taken, half=half)
    fixed = settings("solver.policy=fixed", f"solver.num_agents={len(seconds)}", "budget.cap=600")
    found = simulate([entry(pools.problems[0])], fixed, Machine(pools.throughput))
    assert found.seconds == pytest.approx(max(seconds), abs=0.002)


def test_the_time_limit_holds() -> None:
    entries = [entry(problem(f"p{number}", (RIGHT, 60))) for number in range(4)]
    limit = settings("rules.time_limit=100", "solver.num_agents=1", "budget.cap=60")
    found = simulate(entries, limit, ALONE)
    assert found.seconds <= 100
    assert found.unanswered == 4 - found.right > 0


def test_scores_of_the_recording_choose_where_the_rule_asks_for_them() -> None:
    samples = (drawn(0, 2, 1, (0.1,)), drawn(1, 2, 2, (0.2,)), drawn(2, RIGHT, 3, (0.9,)))
    one = Entry(PoolProblem("p", samples), "p", samples)
    three = settings("solver.num_agents=3", "solver.policy=fixed")
    assert simulate([one], three, ALONE).right == 0
    assert simulate([one], three, ALONE, Rule(method="best_of_n")).right == 1


@pytest.mark.parametrize("policy", ["value", "agree", "adaptive", "deepconf", "fixed"])
def test_every_policy_plays(policy: str) -> None:
    entries = [
        entry(problem(f"p{number}", *[(RIGHT, 10.0 + work) for work in range(8)])) for number in range(3)
    ]
    found = simulate(entries, settings(f"solver.policy={policy}"), Machine(Curve(100.0, 8.0)))
    assert found.right == 3
    # At least a vote's quickest sample, at most all of them in turn.
    assert all(10 <= one.seconds <= sum(range(10, 18)) for one in found.problems)


def test_teams_play_without_what_was_not_recorded() -> None:
    team = settings().model_copy(update={"team": load_team("mixed")})
    assert team.team.uses_tools
    assert simulate([entry(problem("p", (RIGHT, 10)))], team, ALONE).right == 1


def test_draws_are_balanced_and_the_same_for_all_scenarios() -> None:
    pool = [problem(name, *[(RIGHT, float(work)) for work in range(1, 5)]) for name in "abc"]
    one = draw_contest(pool, 7, 3, "shuffled", "s")
    counts = sorted(sum(item.problem.id == name for item in one) for name in "abc")
    assert counts == [2, 2, 3]
    assert len({item.name for item in one}) == 7
    more = {item.name: item for item in draw_contest(pool, 7, 9, "recorded", "s")}
    for item in one:
        assert len(set(item.samples)) == 3
        assert more[item.name].samples[:3] == item.samples
        assert set(more[item.name].samples[:4]) == set(item.problem.samples)
    assert [item.name for item in draw_contest(pool, 7, 3, "shuffled", "t")] != [item.name for item in one]
    assert [item.problem.id for item in draw_contest(pool, 3, 1, "recorded", "s")] == ["a", "b", "c"]


def test_adversarial_orders_go_by_the_pass_rate() -> None:
    pool = [
        problem("half", (RIGHT, 1), (2, 1)),
        problem("never", (2, 1), (2, 1)),
        problem("always", (RIGHT, 1), (RIGHT, 1)),
    ]
    hard = [item.problem.id for item in draw_contest(pool, 3, 2, "hard-first", "s")]
    assert hard == ["never", "half", "always"]
    assert [item.problem.id for item in draw_contest(pool, 3, 2, "easy-first", "s")] == hard[::-1]


def test_the_curve_rises_with_the_budget_and_the_figures_say_how() -> None:
    pools = Pools(tuple(problem(f"p{number}", (RIGHT, 60)) for number in range(4)), ALONE.throughput, "")
    base = settings("solver.num_agents=1", "budget.cap=60")
    results = [
        evaluate(scenario, list(play(scenario, pools, base, size=4, contests=3)))
        for scenario in grid([240, 61, 122], [None], ["agree"], [1.0], ["shuffled"])
    ]
    scores = [one.score.mean for one in results]
    assert [one.scenario.time_limit for one in results] == [61, 122, 240]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    assert scores[-1] + results[-1].unanswered == pytest.approx(4)
    assert all(one.score.low <= one.score.mean <= one.score.high <= 4 for one in results)
    assert all(one.most_minutes <= one.scenario.time_limit / 60 for one in results)
    assert facts(results[-1])["score"]["mean"] == scores[-1]


def test_fewer_problems_than_recorded_and_the_spread_of_one_contest() -> None:
    pool = (problem("always", (RIGHT, 1)), problem("never", (2, 1)))
    pools = Pools(pool, ALONE.throughput, "")
    played = list(play(Scenario(600.0), pools, settings(), size=1, contests=40))
    found = evaluate(Scenario(600.0), played)
    assert found.score.mean == pytest.approx(0.5)
    assert found.spread == pytest.approx(0.5, abs=0.02)
    assert found.samples == 8


def test_scenarios_change_what_they_name_alone() -> None:
    base = settings("solver.temperature=0.3")
    changed = Scenario(60.0, 16, "fixed").settings(base)
    assert changed.rules.time_limit == 60
    assert (changed.solver.num_agents, changed.solver.attempts, changed.solver.policy) == (16, 16, "fixed")
    assert changed.solver.temperature == 0.3
    assert Scenario(60.0).settings(base).solver.attempts == base.solver.attempts


def test_scenarios_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"solver\.policy"):
        Scenario(60.0, policy="best").settings(settings())
    with pytest.raises(ValueError, match="slower -1"):
        grid([60], [None], ["agree"], [-1.0], ["shuffled"])
    with pytest.raises(ValueError, match="at least 1"):
        grid([60], [0], ["agree"], [1.0], ["shuffled"])
    with pytest.raises(ValueError, match="600 scenarios"):
        grid([60.0 + number for number in range(600)], [None], ["agree"], [1.0], ["shuffled"])


def test_five_hours_of_fifty_problems_take_seconds() -> None:
    pool = tuple(
        problem(f"p{number}", *[(RIGHT if work % 2 else work, 60.0 + 9 * work) for work in range(8)])
        for number in range(50)
    )
    entries = [entry(one) for one in pool]
    begun = time.process_time()
    found = simulate(entries, settings("rules.time_limit=17400"), Machine(Curve(100.0, 8.0)))
    assert 3_000 < found.seconds < 17_400
    assert time.process_time() - begun < 5

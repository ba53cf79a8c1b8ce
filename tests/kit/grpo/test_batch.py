"""From groups to weighted rows: who is trained on, who only counts, and how a batch is cut."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.grpo.batch import Member, advantages_of, cut, members_of, told_of
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.rollout import Completion, Failure
from tests.kit.grpo.made import KINDS, completion, rollouts, tasks

NAN = math.nan


def recipe_of(**sections: dict[str, Any]) -> GrpoRecipe:
    base: dict[str, dict[str, Any]] = {"rollout": {"max_completion_tokens": 20}}
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return GrpoRecipe.parse(base, "the test")


def members(recipe: GrpoRecipe, *groups: Any) -> list[Member]:
    return members_of(rollouts(*groups), tasks(len(groups)), recipe)


def test_advantages_by_hand() -> None:
    """Rewards 0, 0, 1, 1: mean 1/2, sample std sqrt(1/3)."""
    made = rollouts([(completion(), reward) for reward in (0.0, 1.0, 0.0, 1.0)])
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert advantages_of(made, recipe_of()) == pytest.approx([-expected, expected] * 2, abs=1e-12)
    plain = advantages_of(made, recipe_of(policy={"scale": "none"}))
    assert plain == [-0.5, 0.5, -0.5, 0.5]


def test_members_hold_what_was_drawn() -> None:
    found = members(recipe_of(), [(completion(3), 0.0), (completion(2, first=9), 1.0)])
    assert [member.row.ids.tolist() for member in found] == [[3, 3, 5, 6, 7], [3, 3, 9, 10]]
    assert [member.row.mask.tolist() for member in found] == [[0, 0, 1, 1, 1], [0, 0, 1, 1]]
    assert found[1].row.sampled.tolist() == pytest.approx([-0.59, -0.6])
    assert [member.row.source for member in found] == [0, 1]
    assert [(member.length, member.moves) for member in found] == [(3, True), (2, True)]
    assert found[0].row.advantage == -found[1].row.advantage < 0


def test_tool_output_is_not_trained_on() -> None:
    tool = Completion((5, 6, 7, 8), (-1.0, NAN, NAN, -2.0), (1, 0, 0, 1), "", "stop", 1, 0)
    (member, _) = members(recipe_of(), [(tool, 0.0), (completion(), 1.0)])
    assert member.length == 2
    assert member.row.mask.tolist() == [0, 0, 1, 0, 0, 1]
    assert member.row.sampled.tolist() == [-1.0, -2.0]


def test_what_is_left_out() -> None:
    """Lost: not a member. Cut off: counted, without loss. Advantage 0: counted, not put through."""
    groups = (
        [(completion(4, finish="length"), 1.0), (completion(3), 0.0), (Failure("lost"), NAN)],
        [(completion(2), 1.0), (completion(5), 1.0), (completion(6), NAN)],
        [(completion(7), 1.0), (Failure("lost"), NAN), (Failure("lost"), NAN)],
    )

    def seen(**policy: Any) -> list[tuple[int, bool]]:
        return [(member.length, member.moves) for member in members(recipe_of(policy=policy), *groups)]

    assert seen() == [(0, False), (3, True), (2, False), (5, False), (7, False)]
    assert seen(mask_cut_off=False) == [(4, True), (3, True), (2, False), (5, False), (7, False)]
    # A divergence from a reference moves all that carry a loss.
    assert seen(kl_coef=0.1) == [(0, False), (3, True), (2, True), (5, True), (7, True)]


def test_the_completion_that_is_alone_has_no_advantage() -> None:
    (member,) = members(recipe_of(), [(completion(), 1.0), (completion(), NAN)])
    assert member.row.advantage == 0 and not member.moves


GROUPS = (
    [(completion(2), 0.0), (completion(4), 1.0)],
    [(completion(6), 1.0), (completion(8), 1.0)],  # no signal
    [(completion(10, finish="length"), 0.0), (completion(3), 1.0)],
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Six sequences of 2, 4, 6, 8, 0 (masked), 3 trained tokens; rows that move: 2, 4 and 3.
        ("grpo", [1 / 12, 1 / 24, 1 / 18]),
        ("gspo", [1 / 12, 1 / 24, 1 / 18]),
        ("bnpo", [1 / 23] * 3),
        ("dapo", [1 / 23] * 3),
        ("cispo", [1 / 23] * 3),
        ("dr_grpo", [1 / 120] * 3),
    ],
)
def test_weights_by_hand(kind: str, expected: list[float]) -> None:
    recipe = recipe_of(policy={"kind": kind})
    (rows,) = cut(members(recipe, *GROUPS), recipe, 0, 0)
    assert [row.source for row in rows] == [0, 1, 5]
    assert [row.weight for row in rows] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [1, 2, 4, 9])
def test_a_batch_is_cut_by_whole_completions(kind: str, parts: int) -> None:
    """Each row comes once a pass, in another order each pass; more parts than members leave some empty."""
    recipe = recipe_of(policy={"kind": kind, "kl_coef": 0.1}, batch={"minibatches": parts, "epochs": 3})
    made = members(recipe, *GROUPS)
    passes = [cut(made, recipe, step, epoch) for step in range(2) for epoch in range(3)]
    orders = {tuple(tuple(row.source for row in rows) for rows in part) for part in passes}
    assert len(orders) == (1 if parts == 1 else 6)
    for part in passes:
        assert len(part) == parts
        assert sorted(row.source for rows in part for row in rows) == [0, 1, 2, 3, 5]
        assert all(row.weight > 0 for rows in part for row in rows)
    assert [[row.source for row in rows] for rows in cut(made, recipe, 0, 1)] == [
        [row.source for row in rows] for rows in passes[1]
    ]


def test_dapo_gives_every_token_of_a_batch_the_same() -> None:
    """Two optimizer steps: each is divided by half of the batch's tokens, whatever its own are."""
    recipe = recipe_of(policy={"kind": "dapo", "kl_coef": 0.1}, batch={"minibatches": 2})
    weights = {row.weight for rows in cut(members(recipe, *GROUPS), recipe, 0, 0) for row in rows}
    assert weights == {1 / 11.5}


@given(st.lists(st.integers(1, 20), min_size=2, max_size=12), st.sampled_from(KINDS), st.integers(1, 4))
def test_weights_of_a_step_sum_to_one(lengths: list[int], kind: str, parts: int) -> None:
    """Over trained tokens; dapo and cispo over the batch, dr_grpo where all are as long as can be."""
    if kind == "dr_grpo":
        lengths = [20] * len(lengths)
    recipe = recipe_of(policy={"kind": kind, "kl_coef": 0.1}, batch={"minibatches": parts})
    made = members(recipe, [(completion(length), 0.0) for length in lengths])
    sums = [
        math.fsum(row.weight * row.mask.sum() for row in rows) for rows in cut(made, recipe, 0, 0) if rows
    ]
    if kind in ("dapo", "cispo"):
        assert math.fsum(sums) == pytest.approx(parts)
    else:
        assert sums == pytest.approx([1.0] * len(sums))


def test_a_batch_without_a_trained_token() -> None:
    recipe = recipe_of()
    made = members(recipe, [(completion(finish="length"), 0.0), (completion(finish="length"), 1.0)])
    assert cut(made, recipe, 0, 0) == [[]]


def test_what_is_told_by_hand() -> None:
    made = rollouts(
        [(completion(2), 0.0), (completion(4), 1.0), (Failure("lost"), NAN)],
        [(completion(6, finish="length"), 1.0), (completion(8), 1.0), (completion(1), NAN)],
        rounds=2,
        replaced=5,
    )
    told = told_of(made, members_of(made, tasks(2), recipe_of()))
    assert told == {
        "reward": 0.75,
        "reward/answer": 0.75,
        "accuracy": 0.5,
        "completion_tokens": 4.2,
        "completion_tokens_max": 8,
        "cut_off_share": 0.2,
        "groups": 2,
        "groups_without_signal": 1,
        "group_std": pytest.approx(math.sqrt(0.5) / 2),
        "groups_replaced": 5,
        "refill_rounds": 2,
        "samples_lost": 2,
        "rows_moving": 2,
    }


def test_what_is_told_of_nothing() -> None:
    made = rollouts([(Failure("lost"), NAN)] * 2)
    told = told_of(made, [])
    assert math.isnan(told["reward"]) and math.isnan(told["cut_off_share"])
    assert (told["completion_tokens_max"], told["samples_lost"], told["accuracy"]) == (0, 2, 0)

"""A step's table: everything comes back, nobody else's is taken, and the curriculum is read from it."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.grpo.curriculum import Pick
from kit.grpo.rollout import Completion, Failure
from kit.grpo.table import Group, Rollouts, read_pass_rates, read_table, table_path, write_table
from kit.rewards.judge import Scored
from tests.examples import examples
from tests.kit.grpo.made import completion, rollouts

numbers = st.floats(-1e6, 1e6) | st.just(math.nan)


@st.composite
def completions(draw: st.DrawFn) -> Completion | Failure:
    if draw(st.booleans()):
        return Failure(draw(st.text(max_size=20)))
    size = draw(st.integers(0, 6))

    def tokens(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=size, max_size=size)))

    return Completion(
        tokens(st.integers(0, 2**31 - 1)),
        tokens(numbers),
        tokens(st.integers(0, 1)),
        draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
        draw(st.sampled_from(("stop", "length"))),
        draw(st.integers(0, 5)),
        draw(st.integers(0, 5)),
    )


@st.composite
def steps(draw: st.DrawFn) -> Rollouts:
    positions = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=4, unique=True))
    groups = []
    for position in positions:
        made = draw(st.lists(completions(), min_size=1, max_size=4))
        parts = st.dictionaries(st.text(max_size=5), numbers, max_size=2)
        scored = [Scored(draw(numbers), draw(parts), draw(st.none() | st.booleans()), "why") for _ in made]
        groups.append(Group(Pick(draw(st.integers(0, 9)), position), made, scored))
    rates = draw(st.dictionaries(st.integers(0, 99), st.floats(0, 1), max_size=3))
    return Rollouts(groups, draw(st.integers(0, 2**40)), rates, 2, 3, {"a reason": 1})


def plain(made: Rollouts) -> str:
    """All that a step is made of; as text, since NaN equals nothing. A lost sample's reason is told once."""
    groups = [
        (
            group.pick,
            group.completions,
            [
                (one.total, one.parts, one.correct, "" if isinstance(drawn, Failure) else one.reason)
                for drawn, one in zip(group.completions, group.scored, strict=True)
            ],
        )
        for group in made.groups
    ]
    return repr((groups, made.next_position, made.rates, made.rounds, made.replaced, made.reasons))


def write(path: Path, made: Rollouts, run: str = "run") -> None:
    count = sum(len(group.completions) for group in made.groups)
    write_table(path, made, run, [("problem", "gold")] * len(made.groups), [0.5] * count)


@settings(max_examples=examples(40), deadline=None)
@given(made=steps())
def test_everything_comes_back(tmp_path_factory: pytest.TempPathFactory, made: Rollouts) -> None:
    path = table_path(tmp_path_factory.mktemp("tables"), 3)
    write(path, made)
    found = read_table(path, "run")
    assert found is not None
    assert plain(found) == plain(made)


def test_what_is_looked_at(tmp_path: Path) -> None:
    """Columns for people: texts, gold answers, rewards, advantages."""
    import polars as pl

    made = rollouts([(completion(2, "It is 4."), 1.0), (Failure("it hung"), math.nan)])
    path = table_path(tmp_path, 0)
    write_table(path, made, "run", [("2 + 2?", "4")], [0.25, 0.0])
    assert path.name == "step-00000000.parquet"
    first, second = pl.read_parquet(path).drop("about", "ids", "logprobs", "mask").iter_rows(named=True)
    assert (first["problem"], first["gold"], first["completion"]) == ("2 + 2?", "4", "It is 4.")
    assert (first["reward"], first["advantage"], first["correct"], first["tokens"]) == (1.0, 0.25, True, 2)
    assert (second["reason"], second["finish"], second["attempt"]) == ("it hung", "", 1)


def test_tables_that_are_not_taken(tmp_path: Path) -> None:
    path = table_path(tmp_path, 0)
    assert read_table(path, "run") is None
    write(path, rollouts([(completion(), 1.0)]))
    assert read_table(path, "another run") is None
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_table(path, "run") is None
    path.write_bytes(whole)
    assert read_table(path, "run") is not None


def test_a_table_is_replaced_whole(tmp_path: Path) -> None:
    path = table_path(tmp_path, 0)
    for reward in (0.0, 1.0):
        write(path, rollouts([(completion(), reward)]))
        found = read_table(path, "run")
        assert found is not None and found.groups[0].scored[0].total == reward
    assert list(tmp_path.iterdir()) == [path]


def test_pass_rates_of_a_group() -> None:
    def rate(*correct: bool | None) -> float | None:
        made = [completion()] * len(correct)
        return Group(Pick(0, 0), made, [Scored(0.0, {}, one) for one in correct]).pass_rate

    assert rate(True, False, False, False) == 0.25
    assert rate(True, None, True) == 1.0  # what was lost says nothing of the prompt
    assert rate(None, None) is None


@settings(max_examples=examples(20), deadline=None)
@given(made=st.lists(steps(), min_size=1, max_size=3))
def test_pass_rates_come_back(tmp_path_factory: pytest.TempPathFactory, made: list[Rollouts]) -> None:
    """Those that a run has in memory after these steps, where it was never killed."""
    folder = tmp_path_factory.mktemp("tables")
    rates: dict[int, float] = {}
    for step, one in enumerate(made):
        write(table_path(folder, step), one)
        rates |= one.rates
    assert read_pass_rates(folder, len(made), "run") == (rates, made[-1].next_position)
    assert read_pass_rates(folder, 0, "run") == ({}, 0)


def test_a_table_that_is_gone_is_named(tmp_path: Path) -> None:
    for step in range(3):
        write(table_path(tmp_path, step), rollouts([(completion(), 1.0)]))
    table_path(tmp_path, 1).unlink()
    with pytest.raises(ValueError, match=r"step-00000001\.parquet is missing .* step 2 is done: put it back"):
        read_pass_rates(tmp_path, 3, "run")
    assert read_pass_rates(tmp_path, 1, "run") == ({}, 1)

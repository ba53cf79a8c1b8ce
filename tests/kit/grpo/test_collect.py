"""Groups of a step: dynamic sampling within its bound, lost samples, seeds, and evaluation."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.grpo.collect import Collector
from kit.grpo.curriculum import sample_seed, stream
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.rollout import Completion, Failure
from kit.grpo.table import Rollouts
from kit.rewards.judge import Judge
from kit.training.ranks import Ranks
from tests.kit.grpo.made import rewarded, tasks
from tests.kit.grpo.scripted import Script, Scripted

PROMPTS, SIZE = 20, 4


def recipe_of(**sections: dict[str, Any]) -> GrpoRecipe:
    base: dict[str, dict[str, Any]] = {
        "batch": {"batch_size": 4, "group_size": SIZE, "seed": 3},
        "rollout": {"max_completion_tokens": 50, "refill_rounds": 2, "temperature": 0.8, "top_p": 0.9},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return GrpoRecipe.parse({"seed": 11, **base}, "the test")


def right(prompt: int) -> str:
    return f"\\boxed{{{prompt}}}"


def half(prompt: int, attempt: int) -> str:
    """Every group has a signal."""
    return right(prompt if attempt % 2 else prompt + 1)


def dull_if(dull: "set[int]") -> Script:
    """These prompts are always solved; the others by half of the attempts."""
    return lambda prompt, attempt: right(prompt) if prompt in dull else half(prompt, attempt)


@contextlib.contextmanager
def collector(script: Script, **sections: dict[str, Any]) -> Iterator[tuple[Collector, Scripted]]:
    import torch

    recipe = recipe_of(**sections)
    sampler = Scripted(script, SIZE)
    with Judge(recipe.rewards, 50) as judge:
        yield Collector(recipe, tasks(PROMPTS), sampler, judge, Ranks(0, 1, 0, torch.device("cpu"))), sampler


def nothing_known(prompt: int) -> float | None:
    return None


def collected(script: Script, position: int = 0, **sections: dict[str, Any]) -> Rollouts:
    with collector(script, **sections) as (made, _):
        return made.collect(position, nothing_known)[0]


def numbers(made: Rollouts) -> list[int]:
    return [group.pick.prompt for group in made.groups]


def order(length: int, begin: int = 0) -> list[int]:
    """Prompts of the stream."""
    picks = stream(PROMPTS, begin, 3, 1.0, nothing_known)
    return [next(picks).prompt for _ in range(length)]


def test_a_step_takes_what_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(half) as (made, sampler):
        found, spent = made.collect(5, nothing_known)
    assert numbers(found) == order(4, 5)
    assert (found.next_position, found.rounds, found.replaced, found.reasons) == (9, 0, 0, {})
    assert [[one.total for one in group.scored] for group in found.groups] == [[0.0, 1.0] * 2] * 4
    expected = [sample_seed(11, position, attempt) for position in range(5, 9) for attempt in range(SIZE)]
    assert [request.seed for request in sampler.requests] == expected
    assert [request.prompt[0] - 3 for request in sampler.requests] == [n for n in order(4, 5) for _ in "1234"]
    (sampling,) = sampler.samplings
    assert (sampling.temperature, sampling.top_p, sampling.min_p, sampling.max_tokens) == (0.8, 0.9, 0.0, 50)
    assert spent.sampling > 0 and spent.rewards > 0


def test_groups_without_signal_are_replaced() -> None:
    """Of the first four prompts two are dull, and so is one of the next two."""
    first = order(8)
    found = collected(dull_if({first[1], first[2], first[4]}))
    assert numbers(found) == [first[0], first[3], first[5], first[6]]
    assert [group.pick.position for group in found.groups] == [0, 3, 5, 6]
    assert (found.next_position, found.rounds, found.replaced) == (7, 2, 3)
    assert found.rates == dict.fromkeys(first[:7], 0.5) | dict.fromkeys((first[1], first[2], first[4]), 1.0)


def test_replacing_has_a_bound() -> None:
    """After it, the step is filled up with the first that were set aside."""
    first = order(12)
    found = collected(dull_if(set(first) - {first[5]}))
    assert numbers(found) == [first[5], first[0], first[1], first[2]]
    assert (found.next_position, found.rounds, found.replaced) == (4 + 4 + 3, 2, 7)
    assert len(found.rates) == 11
    found = collected(dull_if(set(first)))
    assert numbers(found) == first[:4]
    assert (found.next_position, found.rounds, found.replaced) == (12, 2, 8)


def test_no_dynamic_sampling() -> None:
    first = order(4)
    found = collected(dull_if({first[0]}), rollout={"refill_rounds": 0})
    assert numbers(found) == [*first[1:], first[0]]
    assert (found.next_position, found.rounds, found.replaced) == (4, 0, 0)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, PROMPTS - 1)), st.integers(0, 3), st.integers(1, 7))
def test_steps_keep_their_size_and_use_no_position_twice(dull: set[int], rounds: int, size: int) -> None:
    """Over several steps, with pass rates that are learnt; a step may hold more than an epoch."""
    changes: dict[str, dict[str, Any]] = {"rollout": {"refill_rounds": rounds}, "batch": {"batch_size": size}}
    rates: dict[int, float] = {}
    position, used = 0, set[int]()
    with collector(dull_if(dull), **changes) as (made, sampler):
        for _ in range(6):
            drawn = len(sampler.requests)
            found, _ = made.collect(position, rates.get)
            assert len(found.groups) == size
            assert len(sampler.requests) - drawn == SIZE * (size + found.replaced)
            positions = {group.pick.position for group in found.groups}
            assert len(positions) == size and not used & positions
            assert position <= min(positions) and max(positions) < found.next_position
            signal = [group.pick.prompt not in dull for group in found.groups]
            assert all(signal) or found.rounds == rounds
            assert signal == sorted(signal, reverse=True)
            used |= positions
            position = found.next_position
            rates |= found.rates
    assert all(rates[prompt] == (1.0 if prompt in dull else 0.5) for prompt in rates)
    seeds = [request.seed for request in sampler.requests]
    assert len(set(seeds)) == len(seeds)


def test_what_follows_is_the_same_again() -> None:
    script = dull_if({1, 4, 9})
    assert repr(collected(script, 7)) == repr(collected(script, 7))


# --- what is lost -----------------------------------------------------------------------------------------


def test_a_lost_sample_is_counted_and_its_group_goes_on() -> None:
    def script(prompt: int, attempt: int) -> str | Failure:
        return Failure("it hung") if (prompt, attempt) == (order(1)[0], 3) else half(prompt, attempt)

    found = collected(script)
    assert [one.total for one in found.groups[0].scored][:3] == [0.0, 1.0, 0.0]
    lost = found.groups[0].scored[3]
    assert math.isnan(lost.total) and lost.correct is None
    assert found.reasons == {"sample lost: it hung": 1}
    assert found.rates[order(1)[0]] == pytest.approx(1 / 3)


def test_a_group_with_one_reward_has_no_signal() -> None:
    first = order(1)[0]

    def script(prompt: int, attempt: int) -> str | Failure:
        return Failure("it hung") if prompt == first and attempt else half(prompt, attempt)

    found = collected(script, rollout={"max_failed_share": 0.2})
    assert first not in numbers(found)
    assert (found.replaced, found.reasons) == (1, {"sample lost: it hung": 3})


def test_a_prompt_whose_samples_are_all_lost_is_not_called_hard() -> None:
    first = order(1)[0]

    def script(prompt: int, attempt: int) -> str | Failure:
        return Failure("it hung") if prompt == first else half(prompt, attempt)

    found = collected(script, rollout={"max_failed_share": 0.5})
    assert first not in found.rates and len(found.rates) == 4


def test_too_many_lost_samples_end_the_run() -> None:
    def script(prompt: int, attempt: int) -> str | Failure:
        return half(prompt, attempt) if attempt < 2 else Failure(f"the engine is out of {'memory' * 40}")

    with pytest.raises(
        ValueError,
        match=r"8 of 16 samples of a step have no reward, more than rollout\.max_failed_share=0\.4: "
        r"sample lost: the engine is out of (memory)+\w* \(8\)$",
    ):
        collected(script, rollout={"max_failed_share": 0.4})
    assert len(collected(script, rollout={"max_failed_share": 0.5}).groups) == 4


def test_an_own_reward_that_gives_none() -> None:
    """The real function, in its process: about a third of the rewards are missing, with the reason."""
    words = {(n, a): f"{n} {a} {'x' * (n * a)}" for n in range(PROMPTS) for a in range(SIZE)}
    found = collected(
        lambda prompt, attempt: words[prompt, attempt],
        rewards=rewarded("rarely"),
        rollout={"max_failed_share": 0.9},
    )
    scored = [one for group in found.groups for one in group.scored]
    missing = [one for one in scored if math.isnan(one.total)]
    assert 0 < len(missing) < len(scored)
    assert all("rarely: none" in one.reason for one in missing)
    assert all(one.correct is False for one in scored)
    with collector(half, rewards=rewarded("never")) as (made, sampler):
        with pytest.raises(ValueError, match=r"16 of 16 .* have no reward, more than .*0\.1: .*never: none"):
            made.collect(0, nothing_known)
        assert len(sampler.requests) == 16  # no other prompts were tried first


# --- rewards and evaluation -------------------------------------------------------------------------------


def test_what_the_template_opened_is_part_of_what_is_judged() -> None:
    said = "Two.</think> \\boxed{2}"
    rewards = {"answer": 0.0, "format": 1.0, "think": True}
    with collector(lambda prompt, attempt: said, rewards=rewards) as (made, _):
        plain, _ = made.collect(0, nothing_known)
        made.tasks = [replace(task, opening="<think>\n") for task in made.tasks]
        opened, _ = made.collect(0, nothing_known)
    assert {one.total for group in plain.groups for one in group.scored} == {0.0}
    assert {one.total for group in opened.groups for one in group.scored} == {1.0}
    # What is kept is what was drawn.
    first = opened.groups[0].completions[0]
    assert isinstance(first, Completion) and first.text == said


def test_evaluation() -> None:
    """One completion each; a lost one is not right; its seeds are not those of training."""

    def script(prompt: int, attempt: int) -> str | Failure:
        return Failure("it hung") if prompt == 2 else right(prompt if prompt % 3 else prompt + 1)

    with collector(script) as (made, sampler):
        found = [one.correct for one in made.evaluate(tasks(6), 0.6)]
        assert found == [False, True, None, False, True, True]
        seeds = [request.seed for request in sampler.requests]
        assert [one.correct for one in made.evaluate(tasks(6), 0.6)] == found
    assert [request.seed for request in sampler.requests] == seeds * 2
    assert len(set(seeds)) == 6
    assert not {sample_seed(11, p, a) for p in range(99) for a in range(9)} & set(seeds)
    assert {sampling.temperature for sampling in sampler.samplings} == {0.6}

"""The `rewards` section: weights, own functions, and what is refused."""

import tomllib

import pytest

from kit.rewards.recipe import BUILT_IN, RewardSection


def parse(text: str) -> RewardSection:
    return RewardSection.parse(tomllib.loads(text), "test.toml")


def test_the_default_is_the_answer_alone() -> None:
    assert RewardSection().weights == {"answer": 1.0}


def test_every_built_in_reward_is_a_field() -> None:
    assert set(BUILT_IN) <= set(RewardSection.model_fields)
    every = RewardSection.parse(dict.fromkeys(BUILT_IN, 0.5), "here")
    assert every.weights == dict.fromkeys(BUILT_IN, 0.5)


def test_weights_keep_their_order_and_zeros_are_left_out() -> None:
    section = parse(
        'overlong = 0.5\nanswer = 0\nformat = 0.1\n[functions]\n"a.b:c" = -2\n"d:e.f" = 0\n'
        "[cosine]\noverlong = -3.0\n[sandbox]\ntimeout = 2\n"
    )
    assert list(section.weights.items()) == [("format", 0.1), ("overlong", 0.5), ("a.b:c", -2.0)]
    assert section.cosine.values == (1.0, 0.5, -1.0, -0.5, -3.0)
    assert section.sandbox.timeout == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "anser = 1.0",
            r"unknown key 'anser' \(did you mean 'answer'\?\); valid keys: answer, accept_cut_off",
        ),
        ("[sandbox]\nmemory = 1", "unknown key 'sandbox.memory'.*memory_gb"),
        ("answer = 0", "all weights are 0"),
        ('answer = 0\n[functions]\n"a:b" = 0', "all weights are 0"),
        ("answer = -1", "answer: .*greater than or equal to 0"),
        ("answer = nan", "answer: .*finite"),
        ('[functions]\n"a:b" = inf', "functions.a:b: .*finite"),
        ('[functions]\n"a.b" = 1', "'a.b' is no import path"),
        ('[functions]\n"a:" = 1', "'a:' is no import path"),
        ('[functions]\n"a/b.py:c" = 1', "is no import path"),
        ('[functions]\n"a:b:c" = 1', "is no import path"),
        ("ngram = 0", "ngram"),
        ("overlong_buffer = -1", "overlong_buffer"),
        ('prm_aggregate = "max"', "prm_aggregate"),
        ("[sandbox]\nworkers = 0", "sandbox.workers"),
        ("[sandbox]\ntimeout = 0", "sandbox.timeout"),
        ("[sandbox]\nmemory_gb = 0", "sandbox.memory_gb"),
        ("[symbolic]\ntimeout = 0", "symbolic.timeout"),
    ],
)
def test_mistakes_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert "test.toml" in str(caught.value)

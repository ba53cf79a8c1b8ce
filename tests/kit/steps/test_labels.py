"""Labels of one trace: order of questions, bisection, audits, resumption."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.steps.labels import Ask, StepLabel, bisection_tests, first_error
from kit.steps.outcomes import Outcomes
from kit.steps.rounds import Outline, is_audited
from tests.examples import examples
from tests.kit.steps.made import draw_all, policy, scripted


def outline(steps: int, own: bool) -> Outline:
    return Outline(tuple(f"key{number:09d}" for number in range(steps - 1)), own)


def test_steps_are_asked_for_in_order_and_the_last_is_the_answer() -> None:
    made = policy(4, 0.25, 2, adaptive=False)
    rules = made.first_rules()
    trace = outline(3, False)
    outcomes = Outcomes(Path("nowhere"))
    # All are drawn, so all are asked for at once.
    assert rules.label(trace, outcomes.of, "all") == Ask(0, range(4))
    outcomes.add(trace.keys[0], 1, True)  # out of order: number 0 is still out
    assert rules.label(trace, outcomes.of, "all") == Ask(0, range(4))
    outcomes.add(trace.keys[0], 0, False)
    assert rules.label(trace, outcomes.of, "all") == Ask(0, range(2, 4))
    for number in (2, 3):
        outcomes.add(trace.keys[0], number, False)
    assert rules.label(trace, outcomes.of, "all") == Ask(1, range(4))
    for number in range(4):
        outcomes.add(trace.keys[1], number, False)
    assert rules.label(trace, outcomes.of, "all") == [
        StepLabel(True, 4, 1, "start/wrong"),
        StepLabel(False, 4, 0, "sometimes/wrong"),
        StepLabel(False),
    ]


def test_curtailed_any_of_eight() -> None:
    made = policy(8, 0.125, 1, pilot=10_000)
    trace = outline(3, True)
    rows = {trace.keys[0]: [False, False, True], trace.keys[1]: [False] * 8}
    labels, outcomes = draw_all(made, [trace], lambda key, number: rows[key][number])
    assert [(label.right, label.rollouts, label.successes) for label in labels[0]] == [
        (True, 3, 1),
        (False, 8, 0),
        (True, 0, 0),
    ]
    assert outcomes.rollouts == 11


def test_one_step_needs_no_rollout() -> None:
    labels, outcomes = draw_all(policy(), [outline(1, True), outline(1, False)], scripted({}))
    assert labels == {0: [StepLabel(True)], 1: [StepLabel(False)]}
    assert outcomes.rollouts == 0


@pytest.mark.parametrize("steps", [*range(1, 18), 100])
def test_bisection_finds_every_first_error_in_few_tests(steps: int) -> None:
    made = policy(8, 0.125, 4, search="first_error")
    for error in {0, 1, steps // 2, steps - 2, steps - 1} & set(range(steps)):
        trace = outline(steps, False)
        rates = {key: float(step < error) for step, key in enumerate(trace.keys)}
        labels, outcomes = draw_all(made, [trace], scripted(rates))
        assert [label.right for label in labels[0]] == [step < error for step in range(steps)]
        assert first_error([label.right for label in labels[0]]) == error
        assert outcomes.prefixes <= bisection_tests(steps)


def test_bisection_takes_a_right_answer_at_its_word() -> None:
    labels, outcomes = draw_all(policy(search="first_error"), [outline(5, True)], scripted({}))
    assert labels[0] == [StepLabel(True)] * 5 and outcomes.rollouts == 0


@settings(deadline=None, max_examples=examples(10))
@given(st.data())
def test_any_order_and_any_kill_give_the_same_labels(data: st.DataObject) -> None:
    """Outcomes of an undisturbed run, some lost and drawn again, in any order: the same labels and number."""
    seed = data.draw(st.integers(0, 1_000))
    search = data.draw(st.sampled_from(["all", "first_error"]))
    made = policy(16, 0.125, data.draw(st.integers(1, 5)), pilot=6, audit=0.2, search=search)
    source = random.Random(seed)
    outlines: list[Outline] = []
    rates: dict[str, float] = {}
    for number in range(8):
        keys = tuple(f"{number:06d}{step:06d}" for step in range(source.randint(0, 4)))
        rates |= {key: source.choice([0.0, 0.05, 0.5, 0.9]) for key in keys}
        outlines.append(Outline(keys, source.random() < 0.5))
    draw = scripted(rates, seed)
    labels, whole = draw_all(made, outlines, draw)
    drawn = [(key, number) for trace in outlines for key in trace.keys for number in whole.of(key)]
    kept = data.draw(st.permutations(drawn)) if drawn else []
    half = Outcomes(Path("nowhere"))
    for key, number in kept[: data.draw(st.integers(0, len(kept)))]:
        half.add(key, number, draw(key, number))
    again, resumed = draw_all(made, outlines, draw, half)
    assert again == labels
    assert resumed.rollouts == whole.rollouts and resumed.repeated == 0


def test_audited_prefixes_go_on_until_they_are_certain() -> None:
    made = policy(32, 0.125, 4, pilot=20, audit=1.0)
    outlines = [Outline((f"{number:012d}",), False) for number in range(60)]
    labels, _ = draw_all(made, outlines, scripted({trace.keys[0]: 0.0 for trace in outlines}))
    # Three successes short with none left to make it: 29 failures, or 32 in waves of four.
    assert {row[0].rollouts for row in labels.values()} == {32}
    assert [labels[index][0].audit for index in (0, 59)] == [None, True]
    unaudited, _ = draw_all(
        policy(32, 0.125, 4, pilot=20, audit=0.0),
        outlines,
        scripted({}.fromkeys((trace.keys[0] for trace in outlines), 0.0)),
    )
    assert unaudited[59][0].rollouts <= 8 and unaudited[59][0].audit is None


def test_the_audit_is_a_fixed_share() -> None:
    keys = [f"{number:012d}" for number in range(5_000)]
    audited = [key for key in keys if is_audited(key, 0.1)]
    assert 420 < len(audited) < 580
    assert set(audited) >= {key for key in keys if is_audited(key, 0.05)}
    assert not any(is_audited(key, 0.0) for key in keys) and all(is_audited(key, 1.0) for key in keys)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 60))
def test_rounds_cover_every_trace_once_and_double(sizes: list[int], pilot: int) -> None:
    outlines = [Outline(tuple("k" * count), True) for count in sizes]
    rounds = policy(pilot=pilot).rounds(outlines)
    assert [index for indices in rounds for index in indices] == list(range(len(sizes)))
    totals = [sum(sizes[index] for index in indices) for indices in rounds]
    assert all(totals[0] >= pilot for _ in totals[1:])
    for number in range(1, len(totals) - 1):
        assert totals[number] >= sum(totals[:number])

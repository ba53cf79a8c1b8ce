r"""Worked problems: every step is worked out again from the text alone, and the splits never meet."""

import itertools
import re
from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.records import Record
from kit.worked import LARGEST, VOCABULARY, Chain, Difficulty, Split, generate, stream
from submission.answers import check, parse_gold
from submission.steps import split_steps

SPLITS: tuple[Split, ...] = get_args(Split)
STEP = re.compile(r"Step (\d+): (\d+) ([-+*]) (\d+) = (\d+)")


@st.composite
def difficulties(draw: st.DrawFn) -> Difficulty:
    low = draw(st.integers(2, 6))
    return Difficulty(
        kinds=draw(
            st.lists(st.sampled_from(("sum", "mixed", "product")), min_size=1, max_size=3, unique=True)
        ),
        min_operands=low,
        max_operands=draw(st.integers(low, 6)),
        largest=draw(st.integers(50, 9_999)),
        worded=draw(st.sampled_from((0.0, 0.5, 1.0))),
    )


def take(split: Split, seed: int, difficulty: Difficulty, count: int = 20) -> list[Record]:
    return list(itertools.islice(stream(split, seed, difficulty), count))


def result(a: int, sign: str, b: int) -> int:
    """By counting, not by the operator under test."""
    if sign == "*":
        return sum(a for _ in range(b))
    return sum((a, b)) if sign == "+" else len(range(b, a)) if b <= a else -1


def read_problem(text: str) -> list[tuple[str, int]]:
    """Signed operands in the order of the text, read from its wording."""
    if text.startswith("Compute"):
        found = re.fullmatch(r"Compute (\d+)((?: [-+*] \d+)+)\.", text)
        assert found, text
        first, rest = found.groups()
        return [("", int(first)), *((s, int(n)) for s, n in re.findall(r" ([-+*]) (\d+)", rest))]
    *sentences, question = re.split(r"(?<=\.) ", text)
    found = re.fullmatch(r"(?:There are|\w+ has) (\d+) \w+\.", sentences[0])
    assert found, text
    terms = [("", int(found[1]))]
    for sentence in sentences[1:]:
        product = re.fullmatch(r"Each \w+ holds (\d+) \w+\.", sentence)
        gain = re.fullmatch(r"Then \w+ (?:gets|finds|buys) (\d+) more\.", sentence)
        loss = re.fullmatch(r"Then \w+ (?:gives (\d+) away|loses (\d+)|sells (\d+))\.", sentence)
        assert product or gain or loss, sentence
        if product or gain:
            terms.append(("*" if product else "+", int((product or gain)[1])))  # type: ignore[index]
        elif loss:
            terms.append(("-", int(next(filter(None, loss.groups())))))
    assert question.startswith("How many ")
    return terms


@given(difficulties(), st.sampled_from(SPLITS), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_step_and_answer_is_right(difficulty: Difficulty, split: Split, seed: int) -> None:
    for record in take(split, seed, difficulty):
        terms = read_problem(record.problem)
        assert difficulty.min_operands <= len(terms) <= difficulty.max_operands
        assert all(2 <= operand <= difficulty.largest for _, operand in terms)
        *steps, last = split_steps(record.completion)
        assert len(steps) == len(terms) - 1
        value = terms[0][1]
        for number, (step, (sign, operand)) in enumerate(zip(steps, terms[1:], strict=True), 1):
            found = STEP.fullmatch(step)
            assert found, step
            assert (int(found[1]), int(found[2]), found[3], int(found[4])) == (number, value, sign, operand)
            value = int(found[5])
            assert value == result(int(found[2]), sign, operand)
            assert 0 <= value <= LARGEST
        assert last == rf"Answer: \boxed{{{value}}}"
        assert record.answer == str(value)
        assert check(record.completion, parse_gold(record.answer))
        assert not check(record.completion, parse_gold(value + 1))


def test_a_solution_by_hand() -> None:
    chain = Chain((12, 7, 4), ("+", "-"))
    assert chain.solution() == "Step 1: 12 + 7 = 19\n\nStep 2: 19 - 4 = 15\n\nAnswer: \\boxed{15}"


@given(
    st.lists(st.integers(2, 99), min_size=2, max_size=5),
    st.data(),
)
def test_the_order_of_operands_does_not_change_the_split(operands: list[int], data: st.DataObject) -> None:
    for sign in "+*":
        chain = Chain(tuple(operands), (sign,) * (len(operands) - 1))
        other = Chain(tuple(data.draw(st.permutations(operands))), chain.signs)
        assert (chain.key(), chain.split()) == (other.key(), other.split())
    assert Chain(tuple(operands), ("+",) * (len(operands) - 1)).key() != chain.key()


def canonical(record: Record) -> Any:
    terms = read_problem(record.problem)
    first = "*" if terms[1][0] == "*" else "+"
    return frozenset(Counter((sign or first, operand) for sign, operand in terms).items())


def test_splits_share_no_problem_and_hold_their_shares() -> None:
    # So few numbers that each split runs through most of its problems.
    difficulty = Difficulty(kinds=["sum", "mixed"], min_operands=2, max_operands=3, largest=9)
    found = {split: {canonical(record) for record in take(split, 0, difficulty, 1_500)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not found[one] & found[other]
    whole = sum(map(len, found.values()))
    assert 0.7 < len(found["train"]) / whole < 0.9
    assert min(len(found["validation"]), len(found["test"])) > 0.05 * whole


@pytest.mark.parametrize("split", SPLITS)
def test_the_seed_decides(split: Split) -> None:
    assert take(split, 3, Difficulty()) == take(split, 3, Difficulty())
    assert take(split, 3, Difficulty()) != take(split, 4, Difficulty())


def test_difficulty_decides_what_is_drawn() -> None:
    bare = take("train", 0, Difficulty(kinds=["product"], worded=0, largest=9), 50)
    assert all(re.fullmatch(r"Compute \d( \* \d){1,3}\.", record.problem) for record in bare)
    worded = take("train", 0, Difficulty(kinds=["mixed"], worded=1), 50)
    assert not any(record.problem.startswith("Compute") for record in worded)
    assert any(" - " in record.completion for record in worded)
    half = take("train", 0, Difficulty(worded=0.5), 400)
    assert 140 < sum(record.problem.startswith("Compute") for record in half) < 260


def test_generated_problems_differ() -> None:
    records = generate(300, "test", 1)
    assert len({record.problem for record in records}) == 300
    assert records[:100] == generate(100, "test", 1)


def test_too_many_problems_are_refused() -> None:
    few = Difficulty(kinds=["sum"], min_operands=2, max_operands=2, largest=9, worded=0)
    with pytest.raises(ValueError, match="count 5000 is more than the split 'train' has different problems"):
        generate(5_000, "train", 0, few)
    with pytest.raises(ValueError, match="count 0"):
        generate(0, "train", 0)


def test_bad_difficulty_is_refused() -> None:
    with pytest.raises(ValueError, match="min_operands 4 is above max_operands 3"):
        Difficulty(min_operands=4, max_operands=3)
    with pytest.raises(ValueError, match="split 'dev' does not exist"):
        next(stream("dev", 0))  # type: ignore[arg-type]


def test_the_vocabulary_covers_the_words() -> None:
    words = {
        word
        for record in take("train", 0, Difficulty(), 500)
        for word in re.findall(r"[A-Za-z]+", record.problem)
    }
    assert words <= {piece.strip() for piece in VOCABULARY}
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_a_slip_is_one_wrong_step_that_the_rest_goes_on_from() -> None:
    chain = Chain((12, 7, 30), ("+", "+"))
    assert chain.solution((0, 10)) == ("Step 1: 12 + 7 = 29\n\nStep 2: 29 + 30 = 59\n\nAnswer: \\boxed{59}")
    assert chain.solution((1, -1)).endswith("Step 2: 19 + 30 = 48\n\nAnswer: \\boxed{48}")


def test_slips_come_in_their_share_and_are_marked() -> None:
    kinds = Difficulty(slips=0.3)
    records = generate(600, "train", 5, kinds)
    wrong = [record for record in records if not record.correct]
    assert 140 <= len(wrong) <= 220  # 180, within 3.6 standard deviations
    for record in records:
        assert check(record.completion, parse_gold(record.answer)) == record.correct
    # Each line that is not the slip itself adds up.
    for record in wrong:
        lines = [line.split(": ")[1] for line in record.completion.split("\n\n")[:-1]]
        results = [(eval(line.split(" = ")[0]), int(line.split(" = ")[1])) for line in lines]  # noqa: S307
        assert sum(value != said for value, said in results) == 1


def test_without_slips_the_problems_of_a_seed_stay() -> None:
    plain, slipping = generate(50, "train", 5), generate(50, "train", 5, Difficulty(slips=1.0))
    assert all(record.correct for record in plain)
    assert not any(record.correct for record in slipping)
    assert plain[0].problem == slipping[0].problem

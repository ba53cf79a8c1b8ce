import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.data.readers import read
from kit.data.records import Record
from kit.data.sources import Source
from kit.data.steps.contamination import EQUAL, OVERLAP, Contamination, HeldOut, remove

SharedData = Callable[[str], Path]
TEST = (
    "A farmer has 17 sheep and buys 4 more at the market before selling 9 of them to his neighbour in spring."
)
vocabulary = [f"w{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
texts = st.lists(st.sampled_from(vocabulary), min_size=1, max_size=40).map(" ".join)


def test_equal_and_overlapping_problems_name_the_test_problem() -> None:
    held_out = HeldOut({"farm": ["Something else altogether.", TEST]})
    records = [
        Record(problem=TEST.upper().replace(" ", "  ")),
        Record(problem=f"Solve this. {TEST} How many are left?"),
        Record(problem="A farmer has 17 sheep and buys a dog."),
    ]
    outcome = remove(records, held_out, 0.6)
    assert outcome.kept == records[2:]
    assert [drop.reason for drop in outcome.dropped] == [EQUAL, OVERLAP]
    assert outcome.dropped[1].detail == f"farm: 100% of {TEST[:100]!r}"


def test_the_share_is_of_the_test_problems_n_grams() -> None:
    held_out = HeldOut({"t": ["a b c d e f"]}, ngram=3)  # abc bcd cde def
    hit = held_out.find("a b c d x", 0.1)
    assert hit is not None
    assert (hit.share, hit.equal) == (0.5, False)
    assert held_out.find("a b c d x", 0.51) is None
    assert held_out.find("a b x c d", 0.01) is None


def test_a_test_problem_shorter_than_n_is_found_when_equal_only() -> None:
    held_out = HeldOut({"t": ["Compute $\\tan 22.5^\\circ.$"]}, ngram=8)
    found = held_out.find(r"Compute \tan 22.5^\circ", 0.6)
    assert found is not None
    assert found.equal
    assert held_out.find(r"Compute $\tan 225^\circ$.", 0.6) is None
    assert held_out.find(r"First compute $\tan 22.5^\circ$.", 0.6) is None


@given(st.lists(texts, min_size=1, max_size=8), st.data(), st.sampled_from([1, 3, 8, 13]))
def test_a_problem_is_always_found_in_its_own_set(
    problems: list[str], data: st.DataObject, ngram: int
) -> None:
    held_out = HeldOut({"t": problems}, ngram)
    hit = held_out.find(data.draw(st.sampled_from(problems)), 1.0)
    assert hit is not None
    assert hit.equal


@given(st.text())
def test_any_text_is_found_in_its_own_set(text: str) -> None:
    assert HeldOut({"t": [text]}).find(text, 1.0) is not None


@given(st.lists(texts, max_size=8), texts)
def test_words_that_no_test_problem_has_are_never_found(problems: list[str], text: str) -> None:
    assert HeldOut({"t": problems}, 1).find(text.replace("w", "v"), 0.01) is None


@given(st.lists(texts, max_size=6), texts, st.sampled_from([2, 4]))
def test_the_share_is_that_of_a_plain_count(problems: list[str], text: str, ngram: int) -> None:
    def grams(plain: str) -> set[tuple[str, ...]]:
        parts = plain.split()
        return {tuple(parts[i : i + ngram]) for i in range(len(parts) - ngram + 1)}

    expected = max(
        (len(grams(text) & own) / len(own) for problem in problems if (own := grams(problem))), default=0
    )
    hit = HeldOut({"t": problems}, ngram).find(text, 1e-9)
    if text in problems:
        assert hit is not None
        assert hit.equal
    else:
        assert (hit.share if hit else 0) == expected


def test_the_step_reads_its_test_sets(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"problem": TEST}))
    step = Contamination(against={"farm": Source(path="test.jsonl")}, root=tmp_path)
    outcome = step.apply([Record(problem=TEST), Record(problem="Another one.")])
    assert [record.problem for record in outcome.kept] == ["Another one."]
    assert outcome.notes == {"hits in farm": 1}


def test_no_or_missing_test_sets_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no test set"):
        Contamination().apply([Record(problem="p")])
    with pytest.raises(ValueError, match=r"there is no file .*test\.jsonl; `root`"):
        Contamination(against={"t": Source(path="test.jsonl")}, root=tmp_path).apply([Record(problem="p")])


@pytest.fixture
def math_test(shared_data: SharedData) -> HeldOut:
    """The 1,427 of MATH's 5,000 test problems that are on this machine."""
    names = ("math/math500.jsonl", "processbench/math.json", "samples/qwen2.5-math-7b_math_8samples.jsonl")
    sets = {name: [record.problem for record in read(str(shared_data(name)))] for name in names}
    return HeldOut(sets)


@pytest.mark.slow
def test_math_train_problems_in_math_test_are_found(math_test: HeldOut, shared_data: SharedData) -> None:
    # Read by eye among all pairs of problems whose texts are alike; the other test problems are not here.
    repeated = [
        r"The points $(0,0)\,$, $(a,11)\,$, and $(b,37)\,$ are the vertices",
        "Three congruent isosceles triangles $DAO$",
        "Let $C_1$ and $C_2$ be circles defined by $$\n(x-10)^2+y^2=36",
        "Square $ABCD$ has sides of length 2. Set $S$ is the set of all line segments",
        "Find the sum of all positive integers $n$ for which $n^2-19n+99$ is a perfect square.Find the sum",
    ]
    train = list(read(str(shared_data("math/train_7474.json"))))
    outcome = remove(train, math_test, Contamination().overlap)
    dropped = [drop.record.problem for drop in outcome.dropped]
    for start in repeated:
        assert any(problem.startswith(start) for problem in dropped), start
    assert Counter(drop.reason for drop in outcome.dropped)[EQUAL] == 1
    # Nearly all others are the same problem with another number; 99 % of the set are let be.
    assert len(dropped) <= 75


@pytest.mark.slow
def test_innocent_problems_are_let_be(shared_data: SharedData) -> None:
    gsm8k = [record.problem for record in read(str(shared_data("gsm8k/test.jsonl")))]
    outcome = remove(
        list(read(str(shared_data("gsm8k/train.jsonl")))), HeldOut({"t": gsm8k}), Contamination().overlap
    )
    assert len(outcome.dropped) <= 3  # of 7,473
    aime = [record.problem for record in read(str(shared_data("aime/aime24.jsonl")))]
    aime += [record.problem for record in read(str(shared_data("aime/aime25.jsonl")))]
    old = list(read(str(shared_data("aime/aime_1983_2023.json"))))
    assert len(remove(old, HeldOut({"t": aime}), Contamination().overlap).dropped) <= 2


def test_disguised_test_problems_are_found(math_test: HeldOut) -> None:
    def disguised(problem: str) -> str:
        plain = (
            problem.replace("$", "").replace("\\dfrac", "\\frac").replace("\\left", "").replace("\\right", "")
        )
        return f"Return your final response within \\boxed{{}}. {plain} Justify each step."

    long = [problem for _, problem in math_test.problems if len(problem.split()) > 12]
    missed = [problem for problem in long if math_test.find(disguised(problem), 0.6) is None]
    assert len(long) > 1000
    assert missed == []

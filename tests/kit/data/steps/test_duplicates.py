from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.readers import read
from kit.data.records import Record
from kit.data.steps.duplicates import EXACT, NEAR, SAME_TEXT, Duplicates
from kit.data.text import tokens
from tests.examples import examples

SharedData = Callable[[str], Path]
LONG = (
    "A train leaves the station at noon and travels north at 60 miles an hour, while another train leaves "
    "the same station two hours later and travels north at 80 miles an hour along a track beside it. "
    "How long does it take?"
)


def recs(*texts: str) -> list[Record]:
    return [Record(problem=text) for text in texts]


def kept(outcome_of: Duplicates, records: Sequence[Record]) -> list[str]:
    return [record.problem for record in outcome_of.apply(records).kept]


def test_exact_duplicates_after_layout() -> None:
    records = recs(r"Find $\dfrac{1}{2}+x$.", r"find \frac{1}{2} + x", r"Find $\frac{1}{2}-x$.")
    outcome = Duplicates(near=False).apply(records)
    assert outcome.kept == [records[0], records[2]]
    assert [(drop.record, drop.reason) for drop in outcome.dropped] == [(records[1], EXACT)]
    assert outcome.notes == {"different problems": 2}


def test_near_duplicates_hold_the_same_numbers() -> None:
    other_word = LONG.replace("noon", "midday")
    other_number = LONG.replace("60", "65")
    records = recs(LONG, other_word, other_number)
    outcome = Duplicates().apply(records)
    assert outcome.kept == [records[0], records[2]]
    assert [drop.reason for drop in outcome.dropped] == [NEAR]
    assert kept(Duplicates(same_numbers=False), records) == [LONG]
    assert kept(Duplicates(near=False), records) == [LONG, other_word, other_number]


def test_the_threshold_is_the_exact_jaccard_similarity() -> None:
    first, second = "a b c d e f g h i j", "a b c d e f g h i z"  # single tokens: 9 common of 11
    assert kept(Duplicates(shingle=1, threshold=0.81), recs(first, second)) == [first]
    assert kept(Duplicates(shingle=1, threshold=0.82), recs(first, second)) == [first, second]


def test_several_completions_of_a_problem() -> None:
    def answered(text: str, completion: str) -> Record:
        return Record(problem=text, completion=completion)

    records = [
        answered("p one", "a"),
        answered("p one", "a "),
        answered("p one", "b"),
        answered("q two", "a"),
        answered("p one", "c"),
    ]
    outcome = Duplicates(completions=2).apply(records)
    assert outcome.kept == [records[0], records[2], records[3]]
    assert [drop.reason for drop in outcome.dropped] == [SAME_TEXT, EXACT]
    everything = Duplicates(completions=0).apply(records)
    assert everything.kept == [records[0], records[2], records[3], records[4]]


# Few letters and short texts, so that duplicates and near duplicates are frequent.
problems = st.lists(
    st.lists(
        st.sampled_from(["find", "the", "sum", "of", "x", "y", "1", "2", "+"]), min_size=1, max_size=12
    ).map(" ".join),
    max_size=25,
)


@settings(deadline=None, max_examples=examples(25))
@given(problems, st.integers(0, 3), st.sampled_from([0.4, 0.7, 0.85, 1.0]))
def test_idempotent_ordered_and_complete(texts: list[str], completions: int, threshold: float) -> None:
    records = [Record(problem=text, completion=f"{i % 3}") for i, text in enumerate(texts)]
    step = Duplicates(completions=completions, threshold=threshold)
    outcome = step.apply(records)
    assert step.apply(outcome.kept).kept == outcome.kept
    places = [records.index(record) for record in outcome.kept]
    assert places == sorted(places)
    assert len(outcome.kept) + len(outcome.dropped) == len(records)
    counts = Counter(tokens(record.problem) for record in outcome.kept)
    if completions:
        assert all(count <= completions for count in counts.values())
    pairs = [(tokens(record.problem), record.completion) for record in outcome.kept]
    assert len(pairs) == len(set(pairs))  # no exact duplicate is ever left


@settings(deadline=None, max_examples=examples(40))
@given(problems)
def test_nothing_is_dropped_without_a_reason(texts: list[str]) -> None:
    records = recs(*texts)
    outcome = Duplicates(near=False).apply(records)
    left = {tokens(record.problem) for record in outcome.kept}
    assert left == {tokens(text) for text in texts}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "exact", "near"), [("math/train_7474.json", 5, (10, 31)), ("gsm8k/train.jsonl", 0, (1, 1))]
)
def test_real_sets(shared_data: SharedData, name: str, exact: int, near: tuple[int, int]) -> None:
    records = list(read(str(shared_data(name))))
    outcome = Duplicates().apply(records)
    counts = Counter(drop.reason for drop in outcome.dropped)
    assert counts[EXACT] == exact
    assert near[0] <= counts[NEAR] <= near[1]


def test_planted_near_duplicates_are_found(shared_data: SharedData) -> None:
    records = [
        record
        for record in read(str(shared_data("gsm8k/train.jsonl")), limit=400)
        if len(tokens(record.problem)) > 60
    ]
    planted = [
        record.model_copy(update={"problem": f"Consider this. {record.problem}"}) for record in records
    ]
    outcome = Duplicates().apply([*records, *planted])
    assert len(records) > 50
    assert outcome.kept == records

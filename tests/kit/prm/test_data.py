"""From step labels to rows: no label is lost, none is read twice, and what cannot be trained on is told."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.labelled import LabelledSolution, write_labelled
from kit.prm.data import (
    UnusableError,
    check_losses,
    encode,
    form_of,
    make_tables,
    masked,
    open_tables,
    rows_of,
    split,
)
from kit.prm.recipe import HeadSection, PrmRecipe
from kit.training.model import load_tokenizer
from submission.prm.encoding import StepEncoder
from tests.kit.prm.made import prm_recipe, step_records
from tests.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), layers=1, vocab_texts=["\n\n"])


def encoder_of(model: Path, recipe: PrmRecipe) -> StepEncoder:
    return _encoder(model, recipe.head.model_dump_json())


@lru_cache
def _encoder(model: Path, head: str) -> StepEncoder:
    section = HeadSection.model_validate_json(head)
    return StepEncoder(model, form_of(load_tokenizer(model), section))


def recipe_of(**sections: Any) -> PrmRecipe:
    return PrmRecipe.parse({"batch": {"max_length": 200, "batch_size": 4}, **sections}, "the test")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mask", [1.0, 0.4, None, None]),
        ("keep", [1.0, 0.4, 0.9, None]),
        ("wrong", [1.0, 0.4, 0.0, 0.0]),
    ],
)
def test_labels_after_the_first_wrong_step(how: str, expected: list[float | None]) -> None:
    labels = (1.0, 0.4, 0.9, None)
    record = LabelledSolution(problem="p", steps=tuple("abcd"), labels=labels)
    assert masked(record, how) == expected
    # The set's own first error counts: a rare success of roll-outs may be enough for a right step.
    assert masked(record.model_copy(update={"first_error": -1}), how) == list(labels)
    right = LabelledSolution(problem="p", steps=tuple("abc"), labels=(1.0, None, 0.5))
    assert masked(right, how) == [1.0, None, 0.5]


# --- the separator ----------------------------------------------------------------------------------------


def test_a_spare_special_token_is_the_separator(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "m", layers=1, vocab_texts=["<|quad_end|>", "<extra_0>"])
    tokenizer = load_tokenizer(folder)
    assert form_of(tokenizer, HeadSection()).separator == "<extra_0>"
    assert form_of(tokenizer, HeadSection(kind="logprob")).separator == "\n\n"  # as policies write
    assert form_of(tokenizer, HeadSection(separator="##")).separator == "##"


def test_without_one_it_is_a_blank_line(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    size = len(tokenizer)
    assert form_of(tokenizer, HeadSection()).separator == "\n\n"
    with pytest.raises(ValueError, match="'<extra_0>' is not in the tokenizer's vocabulary"):
        form_of(tokenizer, HeadSection(separator="<extra_0>"))
    assert len(tokenizer) == size


# --- rows -------------------------------------------------------------------------------------------------


TEXT = st.text(st.sampled_from("ab1 \n+<|>"), min_size=1, max_size=12).filter(lambda text: text.strip() != "")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(TEXT, st.one_of(st.none(), st.floats(0, 1))), min_size=1, max_size=8),
    st.sampled_from(["token_classification", "logprob", "prefix"]),
    st.sampled_from(["drop", "truncate"]),
)
def test_every_label_is_read_once_or_the_record_is_dropped(
    model: Path, pairs: list[tuple[str, float | None]], head: str, overlong: str
) -> None:
    kind = {"kind": "logprob", "span": "prefix"} if head == "prefix" else {"kind": head}
    sizes = {"max_length": 96, "overlong": overlong}
    recipe = recipe_of(head=kind, batch=sizes, data={"after_error": "keep"})
    steps, labels = zip(*pairs, strict=True)
    record = LabelledSolution(problem="p", steps=steps, labels=labels)
    known = [label for label in labels if label is not None]
    try:
        rows = rows_of(record, encoder_of(model, recipe), recipe, 3)
    except UnusableError as reason:
        assert not known or "separators" in str(reason) or "longer" in str(reason)
        return
    found = [value for row in rows for value in row.labels.tolist() if np.isfinite(value)]
    assert found == known
    assert all(len(row) <= 96 and row.source == 3 and int(row.mask.sum()) == row.sizes.sum() for row in rows)


def test_classifiers_are_read_at_the_separator(model: Path) -> None:
    recipe = recipe_of()
    encoder = encoder_of(model, recipe)
    record = LabelledSolution(problem="1 + 1?", steps=("one", "two", "three"), labels=(1.0, 0.0, 1.0))
    (row,) = rows_of(record, encoder, recipe, 0)
    places = np.flatnonzero(row.mask)
    assert row.ids[places].tolist() == encoder.separator * 2  # nothing after the first wrong step is needed
    tokenizer = load_tokenizer(model)
    assert tokenizer.decode(row.ids[: places[0] + 1]).endswith("one\n\n")
    assert int(places[-1]) == len(row) - 1


def test_a_step_that_spells_the_separator_is_one_step(model: Path) -> None:
    recipe = recipe_of()
    record = LabelledSolution(problem="p", steps=("a\n\nb", "c"), labels=(1.0, 1.0))
    (row,) = rows_of(record, encoder_of(model, recipe), recipe, 0)
    assert row.labels.tolist() == [1.0, 1.0]


def test_losses_are_counted_with_their_reason(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_of(batch={"max_length": 60})
    records = [
        LabelledSolution(problem="p", steps=("a",), labels=(1.0,), id="short"),
        LabelledSolution(problem="p", steps=("a" * 90,), labels=(1.0,), id="long", source="set"),
        LabelledSolution(problem="p", steps=("a",), labels=(None,), id="unlabelled"),
    ]
    found = encode(records, encoder_of(model, recipe), recipe)
    assert (found.records, len(found.rows)) == (1, 1)
    assert found.dropped == {"longer than batch.max_length": 1, "no step has a label": 1}
    message = r"2 of 3 .*batch.max_length: 1, first long of set: 'p'.*max_dropped_share=0.5: raise"
    with pytest.raises(ValueError, match=message):
        check_losses(found, [], 0.5)
    check_losses(found, [], 0.7)
    assert "2 of 3 solutions are left out" in caplog.text
    with pytest.raises(ValueError, match="no row is left to train on"):
        check_losses(encode(records[1:], encoder_of(model, recipe), recipe), [], 1.0)


def test_windows_keep_every_label(model: Path) -> None:
    recipe = recipe_of(batch={"max_length": 80, "overlong": "truncate"})
    steps = tuple(f"step {number} of many" for number in range(9))
    record = LabelledSolution(problem="p", steps=steps, labels=tuple(1 - number / 20 for number in range(9)))
    rows = rows_of(record, encoder_of(model, recipe), recipe, 5)
    assert len(rows) > 1
    assert np.concatenate([row.labels for row in rows]).tolist() == list(record.labels)
    too_long = LabelledSolution(problem="p", steps=("a" * 100,), labels=(1.0,))
    with pytest.raises(UnusableError, match="a prompt with one step longer"):
        rows_of(too_long, encoder_of(model, recipe), recipe, 0)


# --- sets -------------------------------------------------------------------------------------------------


def test_problems_are_held_out_whole(tmp_path: Path) -> None:
    recipe = prm_recipe(tmp_path, data={"validation_share": 0.3})
    records, held_out, lost = split(recipe)
    assert records
    assert held_out
    assert not lost
    assert {record.problem_id for record in records}.isdisjoint(record.problem_id for record in held_out)


def test_validation_problems_leave_the_training_set(tmp_path: Path) -> None:
    write_labelled(tmp_path / "validation.jsonl", step_records(10))  # the first ten of the training set
    recipe = prm_recipe(tmp_path, data={"validation": str(tmp_path / "validation.jsonl")})
    records, held_out, _ = split(recipe)
    assert (len(records), len(held_out)) == (50, 10)


def test_tables_are_made_once(tmp_path: Path) -> None:
    recipe = prm_recipe(tmp_path, loss={"balance": "classes"})
    encoder = encoder_of(tmp_path / "start", recipe)
    assert make_tables(recipe, encoder, "key") == "key"
    data = open_tables(recipe, "key")
    stamp = (recipe.out / "tokens" / "key" / "train" / "ids.npy").stat().st_mtime_ns
    make_tables(recipe, encoder, "key")
    assert (recipe.out / "tokens" / "key" / "train" / "ids.npy").stat().st_mtime_ns == stamp
    assert data.counts["solutions"] == len(data.train)
    assert data.weights.right < 1 < data.weights.wrong
    steps = sum(data.train[index].labelled for index in range(len(data.train)))
    assert data.counts["labelled steps"] == steps


def test_real_process_bench_fits(shared_data: Callable[[str], Path], model: Path) -> None:
    """Every labelled step of 400 real solutions, in windows of a context that is too short for some."""
    from kit.data.readers import read_labelled

    recipe = recipe_of(batch={"max_length": 1024, "overlong": "truncate"}, faults={"max_dropped_share": 0.5})
    records = list(read_labelled(str(shared_data("processbench/gsm8k.json")), limit=60))
    found = encode(records, encoder_of(model, recipe), recipe)
    labels = sum(row.labelled for row in found.rows)
    kept = {row.source for row in found.rows}
    assert len(kept) == found.records
    assert found.records + found.dropped.total() == 60
    if not found.dropped:
        assert labels == sum(label is not None for record in records for label in record.labels)

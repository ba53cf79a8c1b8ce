"""Records into tables: what is lost is counted and said, and a table is made once for what it depends on."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.records import Record, write_records
from kit.distill.data import TABLES, make_tables, open_tables
from kit.distill.recipe import DistillRecipe
from kit.training.chat import Chat, open_chat
from kit.training.model import load_tokenizer
from kit.training.tables import Tokenized, data_digest, tokenize, tokenizer_digest
from tests.kit.training.made import small_recipe

SURROGATE = '{"problem": "What?", "completion": "It is \\ud800."}'


@pytest.fixture
def recipe(tmp_path: Path) -> DistillRecipe:
    return small_recipe(tmp_path, batch={"max_length": 192})


@pytest.fixture
def chat(recipe: DistillRecipe) -> Chat:
    return open_chat(load_tokenizer(Path(recipe.model.path)))


def changed(recipe: DistillRecipe, **sections: dict[str, Any]) -> DistillRecipe:
    made = recipe.model_dump(mode="json")
    for name, section in sections.items():
        made[name] = made[name] | section
    return DistillRecipe.parse(made, "the test")


def records(good: int, empty: int = 0, long: int = 0) -> list[Record]:
    made = [Record(problem=f"What is {n}?", completion=f"It is {n}.") for n in range(good)]
    made += [Record(problem=f"Void {n}") for n in range(empty)]
    return made + [Record(problem=f"Long {n}", completion="x" * 300) for n in range(long)]


def test_what_is_lost_is_counted(recipe: DistillRecipe, chat: Chat) -> None:
    found = tokenize(records(18, empty=1, long=2), chat, recipe)
    assert len(found.rows) == len(found.kept) == 18
    assert found.dropped == {"no completion": 1, "longer than batch.max_length": 2}
    assert [row.source for row in found.rows] == list(range(18))
    cut = tokenize(records(18, long=2), chat, changed(recipe, batch={"overlong": "truncate"}))
    assert (len(cut.rows), cut.cut, cut.dropped.total()) == (20, 2, 0)


def test_too_much_lost_is_an_error_with_its_reasons(recipe: DistillRecipe, chat: Chat) -> None:
    expected = (
        r"3 of 11 records cannot be trained on \(longer than batch\.max_length: 2, unreadable: 1\), more "
        r"than faults\.max_dropped_share=0\.2: clean the data .* raise batch\.max_length, or raise the share"
    )
    with pytest.raises(ValueError, match=expected):
        tokenize(records(8, long=2), chat, recipe, unreadable=1)


def test_a_share_of_just_the_limit_is_allowed(recipe: DistillRecipe, chat: Chat) -> None:
    assert len(tokenize(records(8, long=2), chat, recipe).rows) == 8


def test_nothing_left_is_an_error(recipe: DistillRecipe, chat: Chat) -> None:
    generous = changed(recipe, faults={"max_dropped_share": 1.0})
    with pytest.raises(ValueError, match=r"no row is left to train on \(no completion: 4\)"):
        tokenize(records(0, empty=4), chat, generous)
    with pytest.raises(ValueError, match="the set is empty"):
        tokenize([], chat, generous)


def test_digests_follow_the_content(tmp_path: Path, chat: Chat) -> None:
    path = tmp_path / "set.jsonl"
    digests = set()
    for count in (3, 4):
        write_records(path, records(count))
        digests.add(data_digest(str(path)))
    assert len(digests) == 2
    assert data_digest("owner/name") == data_digest("owner/name") != data_digest("owner/other")
    folder = tmp_path / "folder"
    folder.mkdir()
    empty = data_digest(str(folder))
    (folder / "a").write_text("a")
    assert data_digest(str(folder)) != empty
    before = tokenizer_digest(chat.tokenizer)
    chat.tokenizer.chat_template += " "
    assert tokenizer_digest(chat.tokenizer) != before


def test_a_table_is_made_once(recipe: DistillRecipe, chat: Chat) -> None:
    key = make_tables(recipe, chat, None)
    ids = recipe.out / TABLES / key / "train" / "ids.npy"
    os.utime(ids, ns=(1, 1))
    assert make_tables(recipe, chat, None) == key
    assert ids.stat().st_mtime_ns == 1
    # What is learnt from the rows does not change them, what is in them does.
    assert make_tables(changed(recipe, optimizer={"lr": 1.0}), chat, None) == key
    assert make_tables(changed(recipe, batch={"max_length": 191}), chat, None) != key
    Path(recipe.data.path).write_bytes(Path(recipe.data.path).read_bytes() + b"\n")
    assert make_tables(recipe, chat, None) != key


def test_a_table_whose_making_was_cut_is_made_again(recipe: DistillRecipe, chat: Chat) -> None:
    key = make_tables(recipe, chat, None)
    folder = recipe.out / TABLES / key
    expected = open_tables(recipe, key).train[3].ids.tolist()
    (folder / "summary.json").unlink()
    (folder / "train" / "ids.npy").write_bytes(b"")
    assert make_tables(recipe, chat, None) == key
    assert open_tables(recipe, key).train[3].ids.tolist() == expected


def test_rows_that_cannot_be_read_are_counted(recipe: DistillRecipe, chat: Chat) -> None:
    path = Path(recipe.data.path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "{torn", '{"problem": 7', SURROGATE]) + "\n")
    data = open_tables(recipe, make_tables(recipe, chat, None))
    lost = {name: count for name, count in data.counts.items() if "dropped" in name}
    assert sum(lost.values()) == 3, lost
    assert lost["records dropped (unreadable)"] >= 2


def test_a_problem_is_held_out_as_a_whole(recipe: DistillRecipe, chat: Chat) -> None:
    """However many completions it has: none of a held-out problem's is trained on."""
    made = [
        Record(problem=f"What is {n}?", completion=f"It is {n}, said {say} times.")
        for n in range(30)
        for say in range(3)
    ]
    write_records(Path(recipe.data.path), made)
    split = changed(recipe, data={"validation_share": 0.3})
    data = open_tables(split, make_tables(split, chat, None))
    train = {chat.tokenizer.decode(data.train[n].ids).split("?")[0] for n in range(len(data.train))}
    held = {chat.tokenizer.decode(row.ids).split("?")[0] for row in data.validation}
    assert train and held and not train & held
    assert len(train) + len(held) == 30
    # Sources number both through, for what is cached beside them.
    sources = [data.train[n].source for n in range(len(data.train))] + [row.source for row in data.validation]
    assert sources == list(range(90))


def test_tokenized_starts_empty() -> None:
    found = Tokenized()
    assert (found.rows, found.dropped.total(), found.cut) == ([], 0, 0)
    assert np.array(found.kept).size == 0

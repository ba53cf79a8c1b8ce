"""Student and teacher must mean the same by an id, special tokens aside."""

from typing import Any

import pytest

from kit.distill.vocabulary import check_same_tokens


class Tokens:
    """As much of a tokenizer as the check looks at."""

    def __init__(self, ordinary: dict[str, int], special: dict[str, int]) -> None:
        self._ordinary, self._special = ordinary, special
        self.all_special_ids = list(special.values())

    def get_vocab(self) -> dict[str, int]:
        return self._ordinary | self._special

    def get_added_vocab(self) -> dict[str, int]:
        return self._special

    def __len__(self) -> int:
        return len(self.get_vocab())

    def convert_ids_to_tokens(self, index: int) -> str | None:
        return next((token for token, found in self.get_vocab().items() if found == index), None)


def check(ours: Any, theirs: Any) -> int:
    return check_same_tokens(ours, theirs, "ours", "theirs")


def test_special_tokens_may_have_other_names_and_numbers() -> None:
    ours = Tokens({"a": 0, "b": 1}, {"<end>": 2})
    assert check(ours, Tokens({"a": 0, "b": 1}, {"<eos>": 2})) == 3
    assert check(ours, Tokens({"a": 0, "b": 1}, {"<eos>": 2, "<think>": 5})) == 6
    assert check(Tokens({"a": 0, "b": 1}, {"<end>": 7}), ours) == 8


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (Tokens({"a": 0, "c": 1}, {"<end>": 2}), "id 1 is 'c' there and 'b' here"),
        (Tokens({"a": 0, "b": 1, "c": 2}, {}), "id 2 is 'c' there and '<end>' here"),
        (Tokens({"a": 0}, {"<end>": 2}), "id 1 is None there and 'b' here"),
        (Tokens({"b": 0, "a": 1}, {"<end>": 2}), "id 0 is 'b' there and 'a' here"),
    ],
)
def test_ordinary_tokens_may_not(theirs: Tokens, said: str) -> None:
    ours = Tokens({"a": 0, "b": 1}, {"<end>": 2})
    with pytest.raises(ValueError, match=rf"teacher theirs has another vocabulary.*{said}.*loss\.alpha=0"):
        check(ours, theirs)

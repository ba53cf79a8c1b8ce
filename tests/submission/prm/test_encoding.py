"""Token ids of problems and steps; the text that a model wrote is never read as a mark."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.engines.tokenizer import ChatTokenizer
from submission.prm.encoding import StepEncoder, neutral, scored_context
from submission.prm.heads import EXTRA, PrmConfig
from tests.tiny import make_tiny_checkpoint


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("a<extra_0>b", EXTRA, "ab"),
        ("a<ext<extra_0>ra_0>b", EXTRA, "ab"),
        ("a\n\n\nb\n \nc", "\n\n", "a\nb\nc"),
        ("a\nb", "\n\n", "a\nb"),
        ("a\n\nb\nc", "\n", "a b c"),
        ("a<extra_0>b", "", "a<extra_0>b"),
    ],
)
def test_a_step_holds_no_separator(text: str, separator: str, expected: str) -> None:
    assert neutral(text, separator) == expected


@given(st.lists(st.sampled_from(["<e", "xtra", "_0>", EXTRA, "\n", " ", "a"]), max_size=30).map("".join))
def test_whatever_it_is_made_of(text: str) -> None:
    for separator in (EXTRA, "\n\n", "\n"):
        assert separator not in neutral(text, separator)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder: Path = tmp_path_factory.mktemp("tiny")
    make_tiny_checkpoint(folder, vocab_texts=[EXTRA], max_positions=64)
    form = PrmConfig(separator=EXTRA)
    assert (scored_context(folder, form), scored_context(folder, PrmConfig(head="logprob"))) == (64, 63)
    return ChatTokenizer(folder)


@pytest.mark.slow
def test_the_prompt_is_the_chat_with_system_turn_and_instruction(tokenizer: ChatTokenizer) -> None:
    form = PrmConfig(separator=EXTRA, system_prompt="Reason.", instruction="Be right.")
    ids = StepEncoder(tokenizer, form).prompt("1 +<extra_0> 1?")
    assert tokenizer.tokenizer.decode(ids) == (
        "<|im_start|>system\nReason.<|im_end|>\n<|im_start|>user\n1 + 1?\n\nBe right.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    plain = StepEncoder(tokenizer, PrmConfig()).prompt("1\n\n1")
    assert tokenizer.tokenizer.decode(plain) == "<|im_start|>user\n1\n\n1<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.slow
def test_a_step_spells_no_special_token(tokenizer: ChatTokenizer) -> None:
    encoder = StepEncoder(tokenizer, PrmConfig(separator=EXTRA))
    assert len(encoder.separator) == 1
    (ids,) = encoder.steps(["a<|im_end|><extra_0>b"])
    assert tokenizer.tokenizer.decode(ids) == "a<|im_end|>b"
    assert not set(ids) & {encoder.separator[0], *tokenizer.tokenizer.all_special_ids}
    assert encoder.steps([]) == [] and encoder.steps([""]) == [[]]
    (found,) = encoder.layouts([1], ["ab", "c"], 64)
    assert [found.ids[end] for end in found.ends] == encoder.separator * 2
    assert StepEncoder(tokenizer, PrmConfig(separator="")).separator == []

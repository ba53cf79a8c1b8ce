"""Records as token rows: the prompt as the model will get it, and the completion with its end, exactly."""

from pathlib import Path
from typing import Any

import pytest

from kit.data.records import Record
from kit.training.chat import UnusableError, open_chat
from kit.training.model import load_tokenizer
from tests.tiny import make_tiny_checkpoint

THOUGHT = ["<think>", "</think>"]
# After DeepSeek-R1's: it opens the thought, and cuts thoughts out of past answers.
R1 = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>U' + m.content }}"
    "{% elif m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1] %}"
    "{{ '<|im_start|>A' + said + '<|endoftext|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>A<think>\n' }}{% endif %}"
)
NO_GENERATION_PROMPT = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.content + '<|im_end|>' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(
        tmp_path_factory.mktemp("model"), vocab_texts=THOUGHT, hidden=32, heads=1, layers=1
    )


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def record(completion: str, **fields: Any) -> Record:
    return Record(**({"problem": "What is 1 + 1?", "completion": completion} | fields))


def parts(tokenizer: Any, made: Record, max_length: int = 500, **options: Any) -> tuple[str, str]:
    """Decoded prompt and trained part of a row, special tokens included."""
    row, _ = open_chat(tokenizer, **options).row(made, max_length, "drop")
    begin = row.mask.tolist().index(1)
    assert row.mask[begin:].all()
    return tokenizer.decode(row.ids[:begin]), tokenizer.decode(row.ids[begin:])


def test_tiny_chatml(tokenizer: Any) -> None:
    assert parts(tokenizer, record("Two: \\boxed{2}\n")) == (
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n",
        "Two: \\boxed{2}\n<|im_end|>",
    )


def test_system_message_and_instruction(tokenizer: Any) -> None:
    prompt, _ = parts(tokenizer, record("2", system="Think."), instruction="Box it.")
    assert prompt == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?\n\nBox it.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.slow
def test_the_real_template_of_smollm2() -> None:
    from kit.models import default_model

    tokenizer = load_tokenizer(default_model())
    text = "<think>\n1 + 1 = 2 \N{GREEK SMALL LETTER PI} \N{GRINNING FACE}\n</think>\n\n\\boxed{2}"
    prompt, trained = parts(tokenizer, record(text))
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert trained == f"{text}<|im_end|>"


@pytest.mark.parametrize(
    "text", ["<think>\nHm.\n</think>\n\n2", "<think>Hm.</think>2", "<think>\n\n</think>\n2"]
)
def test_the_thought_is_trained_whatever_the_template_does_to_past_answers(tokenizer: Any, text: str) -> None:
    """It stands once: in the prompt where the template opens it, and the rest is trained."""
    tokenizer.chat_template = R1
    prompt, trained = parts(tokenizer, record(text))
    assert prompt == "<|im_start|>UWhat is 1 + 1?<|im_start|>A<think>\n"
    opened = "<think>\n" if text.startswith("<think>\n") else "<think>"
    assert trained == text.removeprefix(opened) + "<|endoftext|>"


def test_a_completion_without_the_opening_stays_whole(tokenizer: Any) -> None:
    tokenizer.chat_template = R1
    assert parts(tokenizer, record("Hm.</think>2"))[1] == "Hm.</think>2<|endoftext|>"


def test_a_completion_that_is_the_opening_only_is_none(tokenizer: Any) -> None:
    tokenizer.chat_template = R1
    with pytest.raises(UnusableError, match="no completion"):
        parts(tokenizer, record("<think>\n"))


def test_a_template_without_generation_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = NO_GENERATION_PROMPT
    assert parts(tokenizer, record("2")) == ("user: What is 1 + 1?<|im_end|>", "2<|im_end|>")


def test_a_template_without_an_end_takes_the_tokenizers(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert open_chat(tokenizer).end_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="nothing ends a turn: the tokenizer of here"):
        open_chat(tokenizer, "here")


def test_no_template_and_a_broken_one(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0].nothing.here }}"
    with pytest.raises(ValueError, match="the chat template of here fails on a question and an answer"):
        open_chat(tokenizer, "here")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"here has no chat template.*model\.tokenizer"):
        open_chat(tokenizer, "here")


def test_a_system_message_that_the_template_refuses(tokenizer: Any) -> None:
    tokenizer.chat_template = NO_SYSTEM
    assert parts(tokenizer, record("2"))[1] == "2<|im_end|>"
    with pytest.raises(UnusableError, match="the chat template fails: no system"):
        parts(tokenizer, record("2", system="Think."))


# --- the teacher's own ids ---------------------------------------------------------------------------


def ids_of(tokenizer: Any, made: Record) -> list[int]:
    return open_chat(tokenizer).completion(made)


def spelt(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_ids_that_say_the_completion_are_used(tokenizer: Any) -> None:
    """A token that the tokenizer itself would not choose shows which ids were taken."""
    open_, close = (tokenizer.convert_tokens_to_ids(text) for text in THOUGHT)
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "<think>"]
    end, other_end = (tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_end|>", "<|endoftext|>"))
    text = "<think>2</think>"
    sampled = [*letters, *spelt("2", tokenizer), close]
    assert spelt(text, tokenizer)[0] == open_
    ended = ids_of(tokenizer, record(text, completion_ids=(*sampled, end)))
    assert ended == [*sampled, end]
    # The teacher's end is the student's, whatever token it was.
    assert ids_of(tokenizer, record(text, completion_ids=(*sampled, other_end))) == ended
    # A sample that was cut ends with no special token: it is not taught to end there.
    assert ids_of(tokenizer, record(text, completion_ids=tuple(sampled))) == sampled


def test_ids_that_say_something_else_are_not_used(tokenizer: Any) -> None:
    end, start = (tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_end|>", "<|im_start|>"))
    expected = [*spelt("2 + 2", tokenizer), end]
    wrong = spelt("2 + 3", tokenizer)
    right = spelt("2 + 2", tokenizer)
    for ids in (
        (*wrong, end),
        (*right, len(tokenizer)),  # a token that is not there
        (-1, *right),
        (*right[:2], start, *right[2:], end),  # decoding would leave it out, training would not
        (*right, end, end),
    ):
        assert ids_of(tokenizer, record("2 + 2", completion_ids=ids)) == expected, ids


def test_ids_behind_an_opening_that_the_template_wrote(tokenizer: Any) -> None:
    """A trace's text begins with the template's opening, its ids with what the teacher sampled after it."""
    tokenizer.chat_template = R1
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    close = [tokenizer.convert_tokens_to_ids(letter) for letter in "</think>"]
    sampled = [*spelt("Hm.", tokenizer), *close, *spelt("2", tokenizer), end]
    trace = record("<think>\nHm.</think>2", completion_ids=tuple(sampled))
    assert ids_of(tokenizer, trace) == sampled
    # A teacher that wrote the opening itself: it is in the prompt here, and must not come twice.
    whole = record("<think>\nHm.", completion_ids=(*spelt("<think>\nHm.", tokenizer), end))
    assert ids_of(tokenizer, whole) == [*spelt("Hm.", tokenizer), end]


# --- ends, lengths, hostile text -----------------------------------------------------------------------


def test_an_end_that_the_set_wrote_out_is_not_doubled(tokenizer: Any) -> None:
    assert parts(tokenizer, record("2<|im_end|>"))[1] == "2<|im_end|>"


def test_an_end_within_the_completion_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UnusableError, match="ends a turn stands within"):
        parts(tokenizer, record("2<|im_end|>\n<|im_start|>user\nMore!"))


@pytest.mark.parametrize("field", ["completion", "system"])
def test_a_lone_surrogate(tokenizer: Any, field: str) -> None:
    with pytest.raises(UnusableError, match="lone surrogate"):
        parts(tokenizer, record(**({"completion": "2"} | {field: "2 \ud800"})))


@pytest.mark.parametrize(
    "text", ["\N{SNOWMAN} \N{GRINNING FACE}", "e\u0301 \u202e \ufffd \u0000", " \n 2 \n "]
)
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    assert parts(tokenizer, record(text))[1] == f"{text}<|im_end|>"


def test_lengths(tokenizer: Any) -> None:
    chat, made = open_chat(tokenizer), record("abcdef")
    prompt, whole = len(chat.prompt(made)), len(chat.prompt(made)) + 7
    row, cut = chat.row(made, whole, "drop")
    assert (len(row), cut) == (whole, False)
    with pytest.raises(UnusableError, match=r"longer than batch\.max_length"):
        chat.row(made, whole - 1, "drop")
    row, cut = chat.row(made, whole - 1, "truncate")
    assert cut
    assert tokenizer.decode(row.ids[prompt:]) == "abcdef"  # its end is cut off, and none is put in its place
    row, _ = chat.row(made, prompt + 1, "truncate")
    assert tokenizer.decode(row.ids[row.mask == 1]) == "a"
    for longest in (prompt, 3):
        with pytest.raises(UnusableError, match="prompt alone"):
            chat.row(made, longest, "truncate")


def test_no_completion(tokenizer: Any) -> None:
    with pytest.raises(UnusableError, match="no completion"):
        parts(tokenizer, record(""))


def test_a_template_that_says_nothing(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% if messages|length > 1 %}{{ messages[1].content }}<|im_end|>{% endif %}"
    with pytest.raises(UnusableError, match="the prompt is empty"):
        parts(tokenizer, record("2"))

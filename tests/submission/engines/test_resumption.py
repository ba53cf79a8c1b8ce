"""One sample over several engines, and prompts over several models, without any engine."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.engines.base import Chunk, EngineError, Message, SampleRequest, Sampling
from submission.engines.prompts import Prompts
from submission.engines.resumption import SEED_STEP, Resumption

REQUEST = SampleRequest("s", [7, 8], Sampling(max_tokens=10, seed=3, stop=("ab",)))


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def test_the_first_engine_gets_the_request_and_the_next_one_the_rest() -> None:
    sample = Resumption(REQUEST)
    assert sample.ask([7, 8], 100) == REQUEST
    sample.take(Chunk("xyz", (120, 121, 122)))
    sample.resume(decode)
    asked = sample.ask([7, 8], 100)
    assert asked is not None and asked.prompt == [7, 8, 120, 121, 122]
    assert (asked.sampling.max_tokens, asked.sampling.seed) == (7, 3 + SEED_STEP)


def test_a_shorter_context_leaves_less_or_nothing() -> None:
    sample = Resumption(REQUEST)
    sample.take(Chunk("xyz", (120, 121, 122)))
    sample.resume(decode)
    asked = sample.ask([7, 8], 6)
    assert asked is not None and asked.sampling.max_tokens == 1
    assert sample.ask([7, 8], 5) is None
    assert sample.rest() == Chunk("", (), (), "length")


def test_held_text_is_shown_by_the_next_engine() -> None:
    sample = Resumption(REQUEST)
    assert sample.take(Chunk("x", (120, 97))).text == "x"  # the "a" may become "ab"
    sample.resume(decode)
    assert sample.take(Chunk("cd", (99, 100))).text == "acd"
    assert sample.take(Chunk("e", (101,))).text == "e"


def test_held_text_is_shown_where_nothing_more_is_written() -> None:
    sample = Resumption(REQUEST)
    sample.take(Chunk("x", (120, 97)))
    sample.resume(decode)
    assert sample.rest() == Chunk("a", (), (), "length")


def test_a_stop_string_is_seen_across_the_break() -> None:
    sample = Resumption(REQUEST)
    sample.take(Chunk("x", (120, 97)))
    sample.resume(decode)
    # The engine has not seen the "a": it shows the "b", and would go on.
    assert sample.take(Chunk("bc", (98, 99))) == Chunk("", (98, 99), (), "stop")


def test_half_a_character_waits_for_the_next_engine() -> None:
    sample = Resumption(REQUEST)
    sample.take(Chunk("x", (120, 0xC3)))
    sample.resume(decode)
    assert sample.take(Chunk("y", (121,))).text == "y"


@given(text=st.text("abc", max_size=12), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_readers_see_what_one_engine_would_have_shown(text: str, cuts: list[int]) -> None:
    """Engines that hold back a possible beginning of the stop string "abc", killed at any places."""
    stop = "abc"
    end = text.find(stop)
    expected = text if end < 0 else text[:end]
    sample, shown, at = Resumption(SampleRequest("s", [], Sampling(stop=(stop,)))), "", 0
    for cut in [*sorted(cut for cut in cuts if cut <= len(text)), len(text)]:
        # An engine's own view begins where it was started.
        written, sent, last = "", 0, cut == len(text)
        for place in range(at, cut):
            written += text[place]
            found = written.find(stop)
            final = place == len(text) - 1
            show = found if found >= 0 else len(written) if final else max(sent, len(written) - 2)
            reason = "stop" if found >= 0 else "length" if final else None
            chunk = sample.take(Chunk(written[sent:show], (ord(text[place]),), (), reason))  # type: ignore[arg-type]
            sent, shown = show, shown + chunk.text
            if chunk.finish_reason:
                assert shown == expected
                return
        at = cut
        if not last:
            sample.resume(decode)
    assert shown + sample.rest().text == expected


class Words:
    """An encoder with tokens of its own: the model's number before every character."""

    def __init__(self, number: int) -> None:
        self.number = number

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        return [self.number, *([0] * tools), *map(ord, messages[-1].content)]

    def encode_text(self, text: str) -> list[int]:
        return list(map(ord, text))

    def encode_markup(self, text: str) -> list[int]:
        return list(map(ord, text))

    def decode_text(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def count_tokens(self, text: str) -> int:
        return len(text)


def test_prompts_follow_the_model() -> None:
    prompts = Prompts()
    prompts.switch(Path("first"), Words(1))
    assert prompts.serves(Path("first")) and not prompts.serves(Path("second"))
    prompt = prompts.encode_chat([Message("user", "a")])
    assert prompts.translate(prompt) is prompt
    prompts.switch(Path("second"), Words(2))
    assert prompts.translate(prompt) == [2, 97]
    assert prompts.translate([5, 6]) == [5, 6]  # no chat of ours
    with pytest.raises(EngineError, match="no longer serves"):
        prompts.translate([*prompt, 98])
    with_tools = prompts.encode_chat([Message("user", "b")], tools=True)
    new = prompts.encode_chat([Message("user", "a")])
    assert prompts.translate([*new, 98]) == [2, 97, 98]
    prompts.switch(Path("third"), Words(3))
    assert prompts.translate(with_tools) == [3, 0, 98]


def test_models_with_the_same_tokens_share_samples() -> None:
    prompts = Prompts()
    prompts.switch(Path("first"), Words(1))
    prompt = prompts.encode_chat([Message("user", "a")])
    prompts.switch(Path("second"), Words(1))
    assert prompts.translate([*prompt, 98]) == [1, 97, 98]

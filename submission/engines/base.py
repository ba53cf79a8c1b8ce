"""What a contest needs of an engine: stream a sample's tokens with log-probabilities, abort it, count.

Prompts are token ids, not text: what a chat template renders is tokenized exactly once, and an agent
that continues its own text after a tool call appends ids instead of guessing at re-tokenization.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

FinishReason = Literal["stop", "length"]
SWITCH_SECONDS = 120.0
"""For an engine to fall asleep or to wake: tens of gigabytes go to the machine's memory and back."""
MakeRoom = Callable[[bool], Awaitable[bool]]
"""Ends who shares the GPU, if need be, before an engine is started anew; given is whether a start has failed,
the answer is whether anybody was ended."""


class EngineError(RuntimeError):
    """The engine could not start, died, or refused a request; the sample or the engine is lost."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `max_tokens` bounds the completion; `stop` strings and tokens end it.

    A stop string or token is among the chunks' token ids, and not in their text.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True)
class SampleRequest:
    """One sample of one problem. `request_id` is unique; `problem` and `attempt` say what it is for."""

    request_id: str
    prompt: Sequence[int]
    sampling: Sampling
    problem: str = ""
    attempt: int = 0


@dataclass(frozen=True)
class Chunk:
    """Some more of a sample.

    Args:
        text: text since the last chunk (a token may yet have none).
        token_ids: token ids since the last chunk.
        logprobs: log-probability of each of these tokens under the model at temperature 1 (nats).
        finish_reason: None until the last chunk.
        cached: tokens of the request's prompt that the engine did not compute again; None where it does not
            tell (it tells in every chunk, or in none).
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = field(default=())
    finish_reason: FinishReason | None = None
    cached: int | None = None


class Engine(Protocol):
    """A model being served. All methods but `start` expect a started engine; one event loop uses it."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with the cause; may take minutes, never blocks the loop."""

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """Token ids of a chat with the generation prompt appended; `tools` offers the Python tool."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: nothing in it becomes a special token."""

    def encode_markup(self, text: str) -> list[int]:
        """Token ids of a template's own text, special tokens recognised. Never for text from a model."""

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    def count_tokens(self, text: str) -> int:
        """Tokens of plain text, without special tokens."""

    @property
    def max_context(self) -> int:
        """Prompt and completion tokens together at most."""

    def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one sample. Closing the iterator or cancelling its task aborts it within 0.5 s."""

    async def abort(self, request_id: str) -> None:
        """End a sample from outside; its stream ends without a finish reason. Unknown ids are ignored."""

    async def close(self) -> None:
        """Free everything; idempotent."""


@runtime_checkable
class SleepingEngine(Protocol):
    """An engine that can give the GPU's memory back for a while; what it is asked meanwhile waits."""

    def hindrance(self) -> str:
        """Why it cannot sleep now, "" if it can: there must be no sample that it writes."""

    async def sleep(self) -> None:
        """Give the memory back. Raises EngineError; it is then awake, or started anew."""

    async def wake(self) -> None:
        """Take the memory back; at once where it is awake. Raises EngineError; it is then started anew."""

    def share(self, make_room: MakeRoom) -> None:
        """Have this called before each start but the first."""

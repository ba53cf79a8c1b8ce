"""What a sampler gives and takes: prompts as token ids in, completions with their log-probabilities out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from submission.engines.base import Sampling

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Args:
        ids: the completion's tokens, its end token included where it ended.
        logprobs: of each token, in nats, under the distribution that it was drawn from: after temperature,
            top-p and min-p. NaN where nothing was drawn (tool output).
        mask: 1 where the model wrote the token, 0 where a tool did; as long as `ids`.
        text: the completion as text, without special tokens.
        finish: "stop" where it ended by itself, "length" where the limit cut it.
        tool_calls: code blocks that ran.
        tool_errors: those of them that failed.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    mask: tuple[int, ...]
    text: str
    finish: Literal["stop", "length"]
    tool_calls: int = 0
    tool_errors: int = 0


@dataclass(frozen=True)
class Failure:
    """A sample that was lost, and why. It is counted, and its group goes on without it."""

    reason: str


@dataclass(frozen=True)
class Request:
    """One completion to draw.

    Args:
        prompt: token ids.
        seed: of its own random stream: what it gets does not depend on what else is drawn with it (but for
            rounding).
    """

    prompt: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Synced:
    """What a sampler holds after `sync`.

    Args:
        checksum: `kit.grpo.checksum.Checksum` of the weights, the same on both sides. Empty where sampler and
            trainer share one copy.
        seconds: from the first weight to the compared checksum.
        tensors: weights that were sent.
    """

    checksum: str
    seconds: float
    tensors: int


class SyncError(RuntimeError):
    """The sampler's weights are not the trainer's, or it did not answer in time: names the rank."""


class Sampler(Protocol):
    """Draws completions from the weights that it was last given. Its methods are collective."""

    def sync(self, weights: "Iterator[tuple[str, torch.Tensor]]") -> Synced:
        """Take over the model's weights (transformers' names, whole, one at a time on every rank).

        Raises:
            SyncError: the checksums of both sides differ, or a side did not answer within the time.
        """

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
        """One completion a request, in the requests' order; the same list on every rank.

        Args:
            requests: the same on every rank.
            sampling: its `seed` is not used: each request has its own.
        """

    def close(self) -> None:
        """Free everything, processes included; idempotent."""


Values = Mapping[str, float]
"""Named figures of a step, for the log."""

"""Completions drawn by the trainer's own weights, on every rank: nothing to send, nothing to be stale.

For models of some million parameters, where an engine's own work for each token costs more than the model's.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kit.grpo.rollout import Completion, Failure, Request, Synced
from kit.training.chat import Chat
from kit.training.model import token_count
from kit.training.ranks import Ranks
from kit.training.sampling import sample_rows
from submission.engines.base import Sampling

if TYPE_CHECKING:
    import torch


class LocalSampler:
    """See `kit.grpo.rollout.Sampler`.

    Args:
        module: the wrapped model, or the engine that partitions it.
        chat: its tokenizer, and the token that ends a completion.
        max_rows: completions that a rank decodes at a time.
    """

    def __init__(self, module: Any, chat: Chat, ranks: Ranks, *, max_rows: int) -> None:
        self._module, self._chat, self._ranks, self._max_rows = module, chat, ranks, max_rows
        self._vocabulary = token_count(chat.tokenizer)

    def sync(self, weights: "Iterator[tuple[str, torch.Tensor]]") -> Synced:  # noqa: ARG002
        """Nothing: there is one copy."""
        return Synced("", 0.0, 0)

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
        """One completion a request."""
        drawn = sample_rows(
            self._module,
            [request.prompt for request in requests],
            [request.seed for request in requests],
            sampling,
            self._chat.end_id,
            self._vocabulary,
            self._ranks,
            max_rows=self._max_rows,
        )
        texts = self._chat.tokenizer.batch_decode(
            [row.ids for row in drawn], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [
            Completion(
                ids=tuple(row.ids),
                logprobs=tuple(row.logprobs),
                mask=(1,) * len(row.ids),
                text=text,
                finish="stop" if row.ids[-1] == self._chat.end_id else "length",
            )
            for row, text in zip(drawn, texts, strict=True)
        ]

    def close(self) -> None:
        """Nothing to free."""

"""The policy's loss as an objective of the training core, and its log-probabilities without one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kit.grpo.recipe import PolicySection
from kit.grpo.rows import PolicyRow
from kit.losses.kl import kl_penalty
from kit.losses.mismatch import importance_weights
from kit.losses.policy import PolicyTerms, cispo, clipped_surrogate, sequence_mean, sequence_surrogate
from kit.losses.token_logprobs import token_logprobs
from kit.training.batches import MicroBatch
from kit.training.head import TokenLoss
from kit.training.rows import TokenRow

if TYPE_CHECKING:
    import torch

Told = tuple["torch.Tensor", dict[str, "torch.Tensor"]]


class PolicyObjective:
    """See `kit.training.objective.Objective`; the rows are `PolicyRow`s, whose weights hold the normaliser.

    Args:
        temperature: that the completions were drawn at.
        vocabulary: number of real tokens.
    """

    def __init__(self, section: PolicySection, temperature: float, vocabulary: int) -> None:
        self._section, self._temperature, self._vocabulary = section, temperature, vocabulary
        names = ["entropy", "ratio", "clip_low_fraction", "clip_high_fraction"]
        if section.kl_coef:
            names.append("kl")
        if section.mismatch != "none":
            names += ["mismatch_kl", "mismatch_weight", "mismatch_truncated"]
        self.names = tuple(names)

    def divisor(self, rows: Sequence[TokenRow]) -> float:  # noqa: ARG002 - the protocol's
        """1: each row's weight is normalised over the whole step already."""
        return 1.0

    def token_loss(self, micro: MicroBatch) -> TokenLoss:
        """The loss of one micro-batch."""
        return _PolicyLoss(self._section, self._temperature, self._vocabulary, micro)


class _PolicyLoss:
    """One micro-batch's. Every [N] tensor follows `micro.positions`."""

    def __init__(
        self, section: PolicySection, temperature: float, vocabulary: int, micro: MicroBatch
    ) -> None:
        import torch

        self._section, self._temperature, self._vocabulary = section, temperature, vocabulary
        self._targets = micro.targets
        rows = [row for row in micro.rows if isinstance(row, PolicyRow)]  # not a rank's filler
        counts = [int(row.mask.sum()) for row in rows]
        device, self._count = micro.input_ids.device, len(rows)

        def spread(values: Sequence[float]) -> "torch.Tensor":
            return torch.from_numpy(np.repeat(np.array(values, np.float64), counts)).to(device)

        self._advantages = spread([row.advantage for row in rows])
        self._weights = spread([row.weight for row in rows])
        self._segments = torch.from_numpy(np.repeat(np.arange(len(rows)), counts)).to(device)
        self._old = _joined([row.old for row in rows], device)
        self._sampled = _joined([row.sampled for row in rows], device)
        self._reference = _joined([row.reference for row in rows], device)
        self._sequence: torch.Tensor | None = None
        self._whole: torch.Tensor | None = None
        if section.mismatch == "sequence" and self._old is not None:
            # A sequence's weight is made of all of its tokens.
            self._whole = self._importance(self._old, slice(None))
        if section.kind == "gspo" and self._old is not None:
            self._now = torch.zeros(len(self._targets), dtype=torch.float64, device=device)
            self.look = self._look

    def _look(self, logits: "torch.Tensor", part: slice) -> None:
        """What GSPO needs of whole sequences before the first token's loss."""
        self._now[part] = token_logprobs(logits, self._targets[part], self._temperature, self._vocabulary)[
            0
        ].double()
        if part.stop == len(self._targets):
            assert self._old is not None
            self._sequence = sequence_mean(self._now - self._old, self._segments, self._count)

    def __call__(self, logits: "torch.Tensor", part: slice) -> Told:
        """Loss [n] of a chunk's logits [n, V], and what is told of it."""
        section = self._section
        logprobs, entropies = token_logprobs(logits, self._targets[part], self._temperature, self._vocabulary)
        dtype = logprobs.dtype
        old = logprobs.detach() if self._old is None else self._old[part].to(dtype)
        terms = self._terms(logprobs, old, part)
        told = {
            "entropy": entropies,
            "ratio": terms.ratio,
            "clip_low_fraction": (terms.clipped & (terms.ratio < 1)).to(dtype),
            "clip_high_fraction": (terms.clipped & (terms.ratio > 1)).to(dtype),
        }
        loss = terms.loss
        if section.mismatch != "none":
            weights, more = self._mismatch(old, part)
            loss = loss * weights.to(dtype)
            told |= more
        if section.kl_coef:
            assert self._reference is not None, "rows are given the reference's log-probabilities"
            divergence = kl_penalty(logprobs, self._reference[part].to(dtype), section.kl_kind)
            loss = loss + section.kl_coef * divergence
            told["kl"] = divergence.detach()
        return loss * self._weights[part].to(dtype), told

    def _terms(self, logprobs: "torch.Tensor", old: "torch.Tensor", part: slice) -> PolicyTerms:
        section, advantages = self._section, self._advantages[part].to(logprobs.dtype)
        if section.kind == "gspo":
            import torch

            ratio = torch.zeros_like(old) if self._sequence is None else self._sequence[part].to(old.dtype)
            return sequence_surrogate(
                logprobs, ratio, advantages, clip_low=section.clip_low, clip_high=section.clip_high
            )
        surrogate: Any = cispo if section.kind == "cispo" else clipped_surrogate
        return cast(
            "PolicyTerms",
            surrogate(logprobs, old, advantages, clip_low=section.clip_low, clip_high=section.clip_high),
        )

    def _importance(self, old: "torch.Tensor", part: slice) -> "torch.Tensor":
        section = self._section
        assert section.mismatch != "none" and self._sampled is not None
        return importance_weights(
            old,
            self._sampled[part].to(old.dtype),
            self._segments[part],
            self._count,
            level=section.mismatch,
            cap=section.mismatch_cap,
        ).weights

    def _mismatch(self, old: "torch.Tensor", part: slice) -> Told:
        """Weights [n], and what is told of them, by token."""
        section = self._section
        assert section.mismatch != "none" and self._sampled is not None
        if section.mismatch == "sequence":
            assert self._whole is not None, "rows are scored first where whole sequences count"
            weights = self._whole[part]
        else:
            weights = self._importance(old, part)
        difference = (self._sampled[part] - old.double()).nan_to_num(0.0)
        return weights, {
            "mismatch_kl": difference,
            "mismatch_weight": weights,
            "mismatch_truncated": (weights >= section.mismatch_cap).to(weights.dtype),
        }


def _joined(parts: "list[np.ndarray[Any, Any]]", device: Any) -> "torch.Tensor | None":
    """[N] float64 of all rows, or None where rows have none."""
    import torch

    if not parts or not sum(map(len, parts)):
        return None
    return torch.from_numpy(np.concatenate(parts).astype(np.float64)).to(device)


class ScoreOnly:
    """A loss of 0 that notes the log-probabilities of the trained tokens by row."""

    def __init__(self, temperature: float, vocabulary: int) -> None:
        self._temperature, self._vocabulary = temperature, vocabulary
        self.found: dict[int, np.ndarray[Any, Any]] = {}
        """By `TokenRow.source`."""

    def token_loss(self, micro: MicroBatch) -> TokenLoss:
        """Notes each chunk; the loss is 0."""
        import torch

        kept = torch.zeros(len(micro.targets), dtype=torch.float64)
        begins = np.cumsum([0, *(int(row.mask.sum()) for row in micro.rows)])

        def loss(logits: "torch.Tensor", part: slice) -> Told:
            logprobs, _ = token_logprobs(logits, micro.targets[part], self._temperature, self._vocabulary)
            kept[part] = logprobs.detach().double().cpu()
            if part.stop == len(kept):
                for row, begin, end in zip(micro.rows, begins[:-1], begins[1:], strict=True):
                    if end > begin:  # not a rank's filler
                        self.found[row.source] = kept[begin:end].numpy()
            return torch.zeros_like(logprobs), {}

        return loss

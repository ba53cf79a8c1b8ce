"""What quantizing did to a solver: both models read the same held-out traces, one after the other.

Of each token the unquantized model leaves its own log-probability, its first choice, and its `K` likeliest
outcomes with their log-probabilities. The KL divergence is taken over these outcomes and one for all others:
lumping outcomes together can only lower it, and by little, since hardly any probability lies outside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.quiet import quiet_deepspeed
from submission.machine import give_gpu_back

if TYPE_CHECKING:
    import torch

K = 256
Row = tuple[list[int], int]
"""Token ids, and where the tokens begin that are judged."""


@dataclass(frozen=True, slots=True)
class View:
    """How a model sees the judged tokens of one row.

    Args:
        target: [n] log-probability of each token (nats).
        choice: [n] id of the likeliest one.
        ids, logprobs: [n, k] the likeliest outcomes, and how likely they are.
    """

    target: "torch.Tensor"
    choice: "torch.Tensor"
    ids: "torch.Tensor"
    logprobs: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class SolverFigures:
    """The quantized model beside the unquantized one, teacher-forced over the traces' completions."""

    tokens: int
    perplexity_before: float
    perplexity_after: float
    agreement: float
    """Share of tokens at which both would go on with the same token."""
    kl: float
    """Mean KL(before ‖ after) of the next token (nats)."""

    @property
    def loss(self) -> float:
        """Growth of the perplexity: 0.02 is 2 %; below 0 where it shrank."""
        return self.perplexity_after / self.perplexity_before - 1


def divergence(before: "torch.Tensor", after: "torch.Tensor") -> "torch.Tensor":
    """[n] KL(before ‖ after) over k outcomes and the rest as one, from [n, k] log-probabilities."""
    import torch

    p, q = before.double(), after.double()
    rest_p = (1 - p.exp().sum(-1)).clamp_min(0.0)
    # What rounding leaves of the rest cannot be 0 where the other's is not.
    rest_q = (1 - q.exp().sum(-1)).clamp_min(1e-12)
    rest = torch.where(rest_p > 1e-9, rest_p * (rest_p.clamp_min(1e-12) / rest_q).log(), 0.0)
    return ((p.exp() * (p - q)).sum(-1) + rest).clamp_min(0.0)


def load_solver(folder: Path) -> Any:
    """The model in float32 on a CPU, in its own type spread over the GPUs where there are any.

    Raises:
        ValueError: it cannot be loaded, or weights are missing and would be random.
    """
    quiet_deepspeed()
    import torch
    from transformers import AutoModelForCausalLM

    gpu = torch.cuda.is_available()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype="auto" if gpu else torch.float32,
            device_map="auto" if gpu else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ImportError, RuntimeError, KeyError) as error:
        raise ValueError(f"transformers could not load {folder}: {error}") from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{folder} lacks {len(missing)} weights ({', '.join(missing[:3])})")
    return model.eval()


def _logprobs(model: Any, row: Row) -> tuple["torch.Tensor", "torch.Tensor"]:
    """[n, V] log-probabilities of the next token before each judged one, and the judged tokens [n]."""
    import torch

    ids, begin = row
    inputs = torch.tensor([ids], device=model.device)
    logits = model(input_ids=inputs, use_cache=False).logits[0, begin - 1 : -1].float()
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"{model.config.name_or_path}: its logits are not all finite numbers")
    return logits.log_softmax(-1).cpu(), torch.tensor(ids[begin:])


def look(model: Any, rows: Sequence[Row]) -> list[View]:
    """The unquantized model's view of every row."""
    import torch

    views = []
    with torch.inference_mode():
        for row in rows:
            logprobs, targets = _logprobs(model, row)
            top, ids = logprobs.topk(min(K, logprobs.shape[-1]))
            target = logprobs.gather(-1, targets[:, None])[:, 0]
            # Copies: a part of the whole would keep the whole.
            views.append(View(target, ids[:, 0].clone(), ids, top))
    return views


def compare(model: Any, rows: Sequence[Row], before: Sequence[View]) -> tuple[SolverFigures, list[float]]:
    """The quantized model's figures beside the views of the unquantized one, and its negative
    log-probability of each row's judged tokens (nats, summed)."""
    import torch

    tokens, same, kl, nll_before = 0, 0, 0.0, 0.0
    nll_after: list[float] = []
    with torch.inference_mode():
        for row, view in zip(rows, before, strict=True):
            logprobs, targets = _logprobs(model, row)
            tokens += len(targets)
            nll_before -= float(view.target.double().sum())
            nll_after.append(-float(logprobs.gather(-1, targets[:, None]).double().sum()))
            same += int((logprobs.argmax(-1) == view.choice).sum())
            kl += float(divergence(view.logprobs, logprobs.gather(-1, view.ids)).sum())
    figures = SolverFigures(
        tokens=tokens,
        perplexity_before=math.exp(nll_before / tokens),
        perplexity_after=math.exp(sum(nll_after) / tokens),
        agreement=same / tokens,
        kl=kl / tokens,
    )
    return figures, nll_after


def judge_solver(base: Path, quantized: Path, rows: Sequence[Row]) -> tuple[SolverFigures, list[float]]:
    """Load one, then the other, and compare; memory is one model's and the views'. Returns as `compare`.

    Raises:
        ValueError: one cannot be loaded, or gives what is no number.
    """
    model = load_solver(base)
    before = look(model, rows)
    del model
    model = load_solver(quantized)
    try:
        return compare(model, rows, before)
    finally:
        del model
        give_gpu_back()  # the engine of the load check would miss it

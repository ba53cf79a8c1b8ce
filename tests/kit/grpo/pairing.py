"""A sampler with a real engine beside the model whose weights it is given."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kit.grpo.rollout import Completion, Request
from kit.grpo.samplers.vllm import VllmSampler
from submission.engines.base import Sampling
from tests.kit.grpo.serving import SETTINGS, alone

GREEDY = Sampling(temperature=0.0, max_tokens=24, ignore_eos=True)
FREE = Sampling(temperature=0.7, max_tokens=40, ignore_eos=True)
# A block of the prefix cache holds 128 tokens here: two whole blocks, one, and none.
_LONG = [(7 * i * i + 3 * i) % 251 for i in range(300)]
PROMPTS = [_LONG, _LONG[:200], [65, 66]]


class Pair:
    """A sampler, and the model whose weights it is given."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.first = copy.deepcopy(self.model.state_dict())
        self.sampler = VllmSampler(checkpoint, SETTINGS, alone(), sync_timeout=60)

    def reset(self) -> None:
        """The checkpoint's own weights on both sides."""
        self.model.load_state_dict(self.first)
        self.sampler.sync(self.weights())

    def change(self, seed: int) -> None:
        """Other weights, large enough a step that the completions change."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.model.parameters():
                value.add_(0.05 * torch.randn(value.shape, generator=generator))

    def weights(self) -> "Iterator[tuple[str, Any]]":
        return iter(list(self.model.named_parameters()))

    def expected(self, model: Any = None) -> list[list[int]]:
        """Greedy completions of transformers."""
        import torch

        found = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            with torch.inference_mode():
                for _ in range(GREEDY.max_tokens):
                    logits = (model or self.model)(ids).logits[0, -1]
                    ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
            found.append(ids[0, len(prompt) :].tolist())
        return found

    def surprise(self) -> float:
        """The largest difference between the engine's greedy log-probabilities and transformers'."""
        import torch

        worst = 0.0
        for prompt, row in zip(PROMPTS, self.sample(GREEDY), strict=True):
            with torch.inference_mode():
                logits = self.model(torch.tensor([[*prompt, *row.ids]])).logits[0, len(prompt) - 1 : -1]
            wanted = logits.log_softmax(-1).gather(-1, torch.tensor(row.ids).unsqueeze(-1)).squeeze(-1)
            worst = max(worst, float((torch.tensor(row.logprobs) - wanted).abs().max()))
        return worst

    def greedy(self) -> list[list[int]]:
        return [list(row.ids) for row in self.sample(GREEDY)]

    def sample(self, sampling: Sampling, requests: Sequence[Request] | None = None) -> list[Completion]:
        rows = self.sampler.sample(requests or [Request(prompt, 5) for prompt in PROMPTS], sampling)
        assert all(isinstance(row, Completion) for row in rows)
        return [row for row in rows if isinstance(row, Completion)]

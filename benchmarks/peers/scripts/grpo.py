r"""TRL's GRPOTrainer on given problems in the given order, timed step by step.

Settings: those of `benchmarks.grpo_sides.Settings`, with the `rows` (`prompt` as messages, `answer`), the
`end_id` that ends a whole completion, `micro_rows`, the completions of one forward pass of training, and
`continuous`, whether transformers' continuous batching generates. One request, {}, trains; the reply has
`measured` (`benchmarks.grpo_sides.Measured`), the `prompts`' ids, what was `rewarded`, and the first step's
`gradient_norm` before clipping.
"""

import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PACKAGES = ("trl", "transformers", "torch")
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
WHOLE = re.compile(r"\s*(-?[0-9][0-9,]*)\.?\s*")
STATED = re.compile(r"answer(?: is|:)\s*\$?(-?[0-9][0-9,]*)", re.IGNORECASE)


@dataclass
class Ended:
    """One step of TRL's, as it went by."""

    seconds: float = 0.0
    sampling: float = 0.0
    gradient: float = 0.0
    tokens: int = 0
    cut_off: int = 0
    reward: float = 0.0

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Add the time within to one of the figures."""
        began = time.perf_counter()
        yield
        setattr(self, name, getattr(self, name) + time.perf_counter() - began)


def answered(text: str, gold: str) -> bool:
    """Whether the last box, else the last stated answer, else the whole text, is the integer `gold`."""
    boxes = [box for box in BOXED.findall(text) if box.strip()]
    found = boxes or STATED.findall(text) or WHOLE.findall(text if WHOLE.fullmatch(text) else "")
    digits = re.sub(r"[\s,$]", "", found[-1]) if found else ""
    return re.fullmatch(r"-?[0-9]+", digits) is not None and digits.lstrip("0") == gold.lstrip("0")


def repetition(ids: Sequence[int], n: int) -> float:
    """Share of n-grams that occurred before, negated (arXiv 2502.03373)."""
    total = len(ids) - n + 1
    return len({tuple(ids[start : start + n]) for start in range(total)}) / total - 1.0 if total > 0 else 0.0


def reward(text: str, ids: Sequence[int], gold: str, settings: dict[str, Any]) -> float:
    """What `kit.rewards` gives on these problems; a completion that the limit cut is never right."""
    right = ids[-1] == settings["end_id"] and answered(text, gold)
    weight: float = settings["repetition"]
    return float(right) + weight * repetition(ids, 2)


@contextmanager
def opened(settings: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """A run that waits for its one request."""
    import torch

    torch.set_num_threads(settings["threads"])
    with tempfile.TemporaryDirectory() as folder:
        yield lambda _request: train(settings, folder)


def train(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """One run, with everything that is told of it."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer

    disable_progress_bars()
    ended: list[Ended] = []
    prompts: list[list[int]] = []
    rewarded: list[dict[str, Any]] = []
    norms: list[float] = []

    def judge(
        completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], answer: list[str], **_: Any
    ) -> list[float]:
        scores = []
        for turns, ids, gold in zip(completions, completion_ids, answer, strict=True):
            text = turns[0]["content"]
            scores.append(reward(text, ids, gold, settings))
            rewarded.append({"text": text, "ids": list(ids), "gold": gold, "reward": scores[-1]})
        return scores

    trainer_class, clock = _watched(ended, prompts, norms, settings)
    model = AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype="float32", attn_implementation="sdpa", local_files_only=True
    )
    trainer = trainer_class(
        model=model,
        reward_funcs=judge,
        args=_arguments(settings, folder),
        train_dataset=Dataset.from_list(settings["rows"]),
        processing_class=AutoTokenizer.from_pretrained(settings["model"], local_files_only=True),
        callbacks=[clock],
    )
    trainer.train()
    timed = ended[settings["warm_up"] :]
    count = settings["batch_size"] * settings["group_size"] * len(timed)
    measured = {name: sum(getattr(step, name) for step in timed) for name in vars(Ended())}
    measured |= {
        "completions": count,
        "reward": measured["reward"] / len(timed),
        "trained": count,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return {
        "measured": measured,
        "prompts": prompts,
        "rewarded": rewarded,
        "gradient_norm": norms[0],
    }


def _arguments(settings: dict[str, Any], folder: str) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    samples = settings["batch_size"] * settings["group_size"]
    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=settings["micro_rows"],
        gradient_accumulation_steps=samples // settings["micro_rows"],
        num_generations=settings["group_size"],
        num_iterations=1,
        max_completion_length=settings["max_tokens"],
        temperature=1.0,
        use_transformers_continuous_batching=settings["continuous"],
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
        epsilon=0.2,
        epsilon_high=0.28,
        mask_truncated_completions=False,
        shuffle_dataset=False,
        max_steps=settings["warm_up"] + settings["steps"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        log_completions=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _watched(
    ended: list[Ended], prompts: list[list[int]], norms: list[float], settings: dict[str, Any]
) -> tuple[Any, Any]:
    """TRL's trainer class and a callback that together append an `Ended` for each step.

    `_generate` is everything from prompts to texts; gradient work is what `training_step` does beside
    preparing its inputs (which generates and scores), and clipping and the update.
    """
    from transformers import TrainerCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    class Trainer(GRPOTrainer):
        def _generate(self, *given: Any, **named: Any) -> Any:
            with ended[-1].counted("sampling"):
                found = super()._generate(*given, **named)
            asked, completions = found[:2]
            prompts.extend(map(list, asked[:: settings["group_size"]]))
            ended[-1].tokens += sum(map(len, completions))
            ended[-1].cut_off += sum(
                len(ids) == settings["max_tokens"] and ids[-1] not in self.eos_token_ids
                for ids in completions
            )
            return found

        def _calculate_rewards(self, *given: Any, **named: Any) -> Any:
            rewards = super()._calculate_rewards(*given, **named)
            ended[-1].reward = float(rewards.mean())
            return rewards

        def _prepare_inputs(self, *given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            inputs = super()._prepare_inputs(*given, **named)
            ended[-1].gradient -= time.perf_counter() - began
            return inputs

        def training_step(self, *given: Any, **named: Any) -> Any:
            with ended[-1].counted("gradient"):
                return super().training_step(*given, **named)  # type: ignore[no-untyped-call]

        def _clip_grad_norm(self, *given: Any, **named: Any) -> Any:
            with ended[-1].counted("gradient"):
                norm = super()._clip_grad_norm(*given, **named)
            norms.append(float(norm))
            return norm

    class Clock(TrainerCallback):  # type: ignore[misc]  # a lazy import, so of no known type
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            ended.append(Ended())
            self.began = time.perf_counter()

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.updating = time.perf_counter()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            ended[-1].gradient += time.perf_counter() - self.updating

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended[-1].seconds = time.perf_counter() - self.began

    return Trainer, Clock()

"""The two sides of `benchmarks.grpo`, each in a process of its own.

python -m benchmarks.grpo_sides SIDE SETTINGS.json RESULT.json
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from submission.files import write_text

OURS = "ours"
LARGEST_PROMPT = 160
"""Tokens; no problem of `kit.worked` in either model's template has more."""


@dataclass(frozen=True)
class Settings:
    """What both sides have in common.

    Args:
        data: record file of the problems, at least `batch_size` for every step.
        batch_size: prompts of a step.
        group_size: completions of a prompt.
        max_tokens: of a completion.
        steps: timed; `warm_up` more come first.
        threads: of torch.
        sampler: ours, `local` or `vllm`.
        repetition: weight of a reward against repeated pairs of tokens, beside the answer's. Where a model
            hardly ever solves anything, it makes rewards differ, so that there is something to train.
    """

    model: str
    data: str
    batch_size: int
    group_size: int
    max_tokens: int
    steps: int
    warm_up: int
    threads: int
    sampler: str = "local"
    lr: float = 2e-4
    repetition: float = 0.0

    @property
    def samples(self) -> int:
        """Completions of a step."""
        return self.batch_size * self.group_size

    @property
    def rewards(self) -> dict[str, Any]:
        """The `rewards` section of both sides."""
        return {"answer": 1.0, "repetition": self.repetition, "ngram": 2}


@dataclass(frozen=True)
class Measured:
    """One side in one round. Figures are of the timed steps together.

    Args:
        seconds: wall-clock.
        sampling: seconds from prompts to completions as text.
        gradient: seconds of forward passes, backward passes and updates.
        completions: drawn.
        tokens: of these completions.
        cut_off: completions that the limit cut.
        reward: mean.
        trained: completions that went through the model for the gradient.
        peak_bytes: largest resident memory of the process.
    """

    seconds: float
    sampling: float
    gradient: float
    completions: int
    tokens: int
    cut_off: int
    reward: float
    trained: int
    peak_bytes: int

    @property
    def speed(self) -> float:
        """Completions a second, end to end."""
        return self.completions / self.seconds

    @property
    def other(self) -> float:
        """Share of the time that is neither sampling nor gradient work."""
        return 1 - (self.sampling + self.gradient) / self.seconds


def recipe_of(settings: Settings, out: Path) -> dict[str, Any]:
    """Sections of our recipe."""
    length = LARGEST_PROMPT + settings.max_tokens
    return {
        "out": str(out),
        "model": {"path": settings.model, "dtype": "float32", "gradient_checkpointing": False},
        "data": {"path": settings.data, "system_prompt": ""},
        "batch": {
            "batch_size": settings.batch_size,
            "group_size": settings.group_size,
            "num_episodes": settings.warm_up + settings.steps,
            "max_length": length,
            "micro_batch_tokens": 4096,
            "packing": False,
        },
        "rollout": {
            "sampler": settings.sampler,
            "temperature": 1.0,
            "max_completion_tokens": settings.max_tokens,
            "refill_rounds": 0,  # TRL takes groups as they come
            "engine": {"max_num_seqs": settings.samples, "max_model_len": length},
        },
        # TRL has neither by default: no correction where the trainer samples itself, cut completions count.
        "policy": {
            "kind": "dapo",
            "kl_coef": 0.0,
            "mismatch": "none" if settings.sampler == "local" else "token",
            "mask_cut_off": False,
        },
        "rewards": settings.rewards,
        "optimizer": {"lr": settings.lr, "schedule": "constant", "warmup_ratio": 0.0},
        "parallel": {"engine": "torch"},
        "checkpoint": {"every": 0, "asynchronous": False},
        "logging": {"live": "never"},
    }


def train_ours(settings: Settings, out: Path) -> Measured:
    """One run of the second phase; what it measured stands in its metrics."""
    from kit.grpo.phase import grpo
    from kit.grpo.recipe import GrpoRecipe
    from kit.training.loop import METRICS
    from kit.training.metrics import read_metrics

    grpo(GrpoRecipe.parse(recipe_of(settings, out), "the benchmark"))
    lines = [line for line in read_metrics(out / METRICS) if line.kind == "train"][settings.warm_up :]
    count = settings.samples

    def total(name: str) -> float:
        return sum(float(line.values[name]) for line in lines)

    return Measured(
        seconds=sum(line.time["seconds"] for line in lines),
        sampling=sum(line.time["sampling_seconds"] for line in lines),
        gradient=sum(line.time["train_seconds"] for line in lines),
        completions=count * len(lines),
        tokens=round(count * total("completion_tokens")),
        cut_off=round(count * total("cut_off_share")),
        reward=total("reward") / len(lines),
        trained=round(total("rows_moving")),
        peak_bytes=_peak_bytes(),
    )


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


def train_trl(settings: Settings, out: Path, micro_rows: int, continuous: bool) -> Measured:
    """TRL's trainer on the same problems in the same order.

    Args:
        micro_rows: completions of one forward pass of training.
        continuous: generate by transformers' continuous batching.
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM
    from trl.trainer.grpo_config import GRPOConfig

    from kit.training.model import load_tokenizer

    disable_progress_bars()
    ended: list[Ended] = []
    with reward_function(settings) as reward:
        arguments = GRPOConfig(
            output_dir=str(out),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=micro_rows,
            gradient_accumulation_steps=settings.samples // micro_rows,
            num_generations=settings.group_size,
            num_iterations=1,
            max_completion_length=settings.max_tokens,
            temperature=1.0,
            use_transformers_continuous_batching=continuous,
            beta=0.0,
            loss_type="dapo",
            scale_rewards="group",
            epsilon=0.2,
            epsilon_high=0.28,
            mask_truncated_completions=False,
            shuffle_dataset=False,
            max_steps=settings.warm_up + settings.steps,
            learning_rate=settings.lr,
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
        trainer_class, clock = _watched(ended, settings.max_tokens)
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(
                settings.model, dtype="float32", attn_implementation="sdpa", local_files_only=True
            ),
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_list(trl_rows(settings)),
            processing_class=load_tokenizer(Path(settings.model)),
            callbacks=[clock],
        )
        trainer.train()
    timed = ended[settings.warm_up :]
    return Measured(
        seconds=sum(step.seconds for step in timed),
        sampling=sum(step.sampling for step in timed),
        gradient=sum(step.gradient for step in timed),
        completions=settings.samples * len(timed),
        tokens=sum(step.tokens for step in timed),
        cut_off=sum(step.cut_off for step in timed),
        reward=sum(step.reward for step in timed) / len(timed),
        trained=settings.samples * len(timed),
        peak_bytes=_peak_bytes(),
    )


def _watched(ended: list[Ended], max_tokens: int) -> tuple[Any, Any]:
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
            completions = found[1]
            ended[-1].tokens += sum(map(len, completions))
            ended[-1].cut_off += sum(
                len(ids) == max_tokens and ids[-1] not in self.eos_token_ids for ids in completions
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
                return super()._clip_grad_norm(*given, **named)

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


def trl_rows(settings: Settings) -> list[dict[str, Any]]:
    """The problems as conversations, in the order in which our run takes them."""
    from kit.data.records import read_records

    records = list(read_records(Path(settings.data)))
    return [
        {"prompt": [{"role": "user", "content": record.problem}], "answer": record.answer}
        for record in map(records.__getitem__, taken(settings, len(records)))
    ]


def taken(settings: Settings, count: int) -> list[int]:
    """Which of `count` problems our run takes, in order."""
    from kit.grpo.curriculum import stream
    from kit.grpo.recipe import GrpoRecipe

    recipe = GrpoRecipe.parse(recipe_of(settings, Path("unused")), "the benchmark")
    picks = stream(count, 0, recipe.batch.seed, recipe.curriculum.revisit, lambda _: None)
    wanted = (settings.warm_up + settings.steps) * settings.batch_size
    return [pick.prompt for pick in islice(picks, wanted)]


def wake_checkers(settings: Settings) -> None:
    """Give the first problem that is taken an answer that only algebra decides, on both sides.

    The processes that decide it start when they are first needed, and then take half a second: that is to
    happen in the warm-up, not in whichever step a malformed answer turns up.
    """
    from kit.data.records import read_records, write_records

    path = Path(settings.data)
    records = list(read_records(path))
    first = taken(settings, len(records))[0]
    records[first] = records[first].model_copy(update={"answer": "\\sqrt{2}"})
    write_records(path, records)


@contextmanager
def reward_function(settings: Settings) -> Iterator[Callable[..., list[float]]]:
    """Our rewards, called as TRL calls one."""
    from kit.grpo.rollout import Completion
    from kit.rewards.judge import Judge, Sample
    from kit.rewards.recipe import RewardSection
    from kit.training.chat import open_chat
    from kit.training.model import load_tokenizer
    from submission.answers import parse_gold

    end_id = open_chat(load_tokenizer(Path(settings.model)), settings.model).end_id

    with Judge(RewardSection(**settings.rewards), settings.max_tokens) as judge:

        def answer(
            completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], answer: list[str], **_: Any
        ) -> list[float]:
            samples = []
            for index, (turns, ids, gold) in enumerate(zip(completions, completion_ids, answer, strict=True)):
                made = Completion(
                    ids=tuple(ids),
                    logprobs=(),
                    mask=(1,) * len(ids),
                    text=turns[0]["content"],
                    finish="stop" if ids[-1] == end_id else "length",
                )
                samples.append(Sample("", parse_gold(gold), made, index // settings.group_size))
            return [scored.total for scored in judge.score(samples)]

        yield answer


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(side: str, given: Path, result: Path) -> None:
    """Train as one side and write what was measured."""
    import torch

    settings = Settings(**json.loads(given.read_text(encoding="utf-8")))
    torch.set_num_threads(settings.threads)
    out = result.parent / "run"
    if side == OURS:
        measured = train_ours(settings, out)
    else:
        micro_rows, _, how = side.partition("-")
        measured = train_trl(settings, out, int(micro_rows), how == "continuous")
    write_text(result, json.dumps(asdict(measured)))


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

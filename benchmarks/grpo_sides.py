"""The two sides of `benchmarks.grpo`, each in a process of its own: ours is this module as a program.

python -m benchmarks.grpo_sides SETTINGS.json RESULT.json
"""

import json
import resource
import sys
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
        other_prompts: prompts of TRL's, warm-up included, that are not ours token by token.
        other_rewards: completions of TRL's, warm-up included, that our judge rewards otherwise.
        gradient_gap: of TRL's first step: | its gradient's norm before clipping / that of ours - 1 |.
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
    other_prompts: int = 0
    other_rewards: int = 0
    gradient_gap: float = 0.0

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


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(given: Path, result: Path) -> None:
    """Train as our side and write what was measured."""
    import torch

    settings = Settings(**json.loads(given.read_text(encoding="utf-8")))
    torch.set_num_threads(settings.threads)
    write_text(result, json.dumps(asdict(train_ours(settings, result.parent / "run"))))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))

"""The training loop: steps, evaluations, checkpoints, metrics, until the end or a signal.

    prepare(...)  ->  run(job)  ->  Outcome

A run's state is its step number, the engine's weights and moments, and the random generators: which rows a
step sees follows from its number. A run that is killed anywhere and started again therefore goes on from its
last checkpoint to the very same numbers.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from kit.training import rng
from kit.training.checkpoints import Checkpoint, CheckpointStore
from kit.training.engines.base import TrainEngine
from kit.training.live import TrainView
from kit.training.metrics import MetricsFile
from kit.training.ranks import Ranks
from kit.training.recipe import TrainRecipe
from kit.training.schedule import lr_at
from kit.training.signals import REQUEUE_EXIT_CODE, StopRequest
from kit.training.speed import SpeedMeter, peak_flops
from kit.training.steps import StepResult
from kit.training.trackers import Trackers

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"


class Steps(Protocol):
    """What a phase does in a step. All methods are collective."""

    @property
    def total(self) -> int:
        """Steps of the whole run."""

    @property
    def metric(self) -> str:
        """Which figure of the evaluation the best checkpoints are judged by."""

    @property
    def lower_is_better(self) -> bool:
        """Of `metric`."""

    @property
    def evaluates(self) -> bool:
        """Whether there is anything to evaluate on."""

    def step(self, step: int, lr: float) -> StepResult:
        """Train step number `step` (from 0). What it does follows from its number, the weights and the random
        generators."""

    def evaluate(self) -> dict[str, float]:
        """Figures of the model as it is; `metric` is one of them."""


@dataclass(frozen=True)
class Job:
    """Everything that the loop needs, made by a phase.

    Args:
        identity: what makes this run this run; a checkpoint of another identity is refused.
        flops_per_token: of forward and backward pass, for MFU; 0 if not known.
        counts: what the data lost on the way, told in the live view.
    """

    recipe: TrainRecipe
    ranks: Ranks
    engine: TrainEngine
    steps: Steps
    identity: Mapping[str, JsonValue]
    flops_per_token: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    revision: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        steps: done in all, those before a resume included.
        stopped: name of the signal that ended it early; empty at the end of the data.
        exit_code: 0, or what the launcher requeues on.
    """

    steps: int
    total: int
    stopped: str = ""
    exit_code: int = 0
    evaluation: dict[str, float] = field(default_factory=dict)
    skipped: int = 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.steps == self.total


def run(job: Job, stop: StopRequest) -> Outcome:
    """Train from the last good checkpoint, or from the start, to the end or a signal.

    Args:
        stop: entered by the caller, so that a signal during loading counts too.

    Raises:
        ValueError: the output folder is another run's, or resuming is off and there are checkpoints.
            Or more steps were skipped than `faults.max_skipped_share`.
    """
    return _Run(job).run(stop)


@dataclass
class _Counts:
    """Saved with every checkpoint, so that they go on where they were."""

    tokens: int = 0
    trained: int = 0
    skipped: int = 0


class _Run:
    def __init__(self, job: Job) -> None:
        self.job = job
        recipe, ranks = job.recipe, job.ranks
        self.total = job.steps.total
        self.counts = _Counts()
        self.evaluation: dict[str, float] = {}
        self.owed = False
        """Whether the evaluation of the last step is still to be made."""
        self.store = CheckpointStore(
            recipe.out / CHECKPOINTS,
            rank=ranks.rank,
            world_size=ranks.world_size,
            identity=job.identity,
            keep_last=recipe.checkpoint.keep_last,
            keep_best=recipe.checkpoint.keep_best,
            lower_is_better=job.steps.lower_is_better,
            asynchronous=recipe.checkpoint.asynchronous,
            commit_timeout=recipe.parallel.timeout,
            attempt=_common_attempt(ranks),
        )

    def run(self, stop: StopRequest) -> Outcome:
        job, recipe = self.job, self.job.recipe
        try:
            start = self._resume()
            device = job.ranks.device
            peak = None
            if device.type == "cuda":
                import torch

                peak = peak_flops(torch.cuda.get_device_name(device))
            self.meter = SpeedMeter(
                self.total, devices=job.ranks.world_size, flops_per_token=job.flops_per_token, peak=peak
            )
            resumed = start or None
            self.metrics = MetricsFile(recipe.out / METRICS, resumed) if job.ranks.main else None
            names = recipe.logging.trackers if job.ranks.main else ()
            self.trackers = Trackers(
                names,
                project=recipe.logging.project,
                name=recipe.logging.name,
                folder=recipe.out,
                config=recipe.model_dump(mode="json"),
                resume_step=resumed,
            )
            with TrainView(
                self.total, mode=recipe.logging.live, rank=job.ranks.rank, start=start
            ) as self.live:
                for name, count in job.counts.items():
                    self.live.count(name, count)
                return self._steps(start, stop)
        finally:
            self._close()

    def _close(self) -> None:
        for name in ("metrics", "trackers"):
            if getattr(self, name, None) is not None:
                getattr(self, name).close()
        self.store.close()

    def _resume(self) -> int:
        """Load the last good checkpoint; returns the steps that are done."""
        ranks = self.job.ranks
        step = int(ranks.most(ranks.together(self._last_good)))
        if step:
            self._load(self.store.open(step))
        return step

    def _last_good(self) -> int:
        """Step of the checkpoint to go on from, on rank 0; 0 for none, and on the other ranks."""
        if not self.job.ranks.main:
            return 0
        if not self.job.recipe.checkpoint.resume:
            self.store.refuse_existing()
            return 0
        found = self.store.latest()
        return found.step if found else 0

    def _load(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.counts = _Counts(**{key: int(str(state[key])) for key in ("tokens", "trained", "skipped")})
        self.owed = bool(state.get("evaluation_owed"))
        evaluation = state.get("evaluation")
        self.evaluation = (
            {k: float(str(v)) for k, v in evaluation.items()} if isinstance(evaluation, dict) else {}
        )
        self.job.engine.load_state(checkpoint.tensors(), int(str(state["updates"])))
        mine = checkpoint.rank_state(self.job.ranks.rank)
        if mine is not None:
            rng.restore(mine)

    def _steps(self, start: int, stop: StopRequest) -> Outcome:
        recipe, ranks = self.job.recipe, self.job.ranks
        step = start
        stopped = "a signal" if ranks.most(float(stop.requested is not None)) else ""
        if self.owed and not stopped:
            self._evaluate(step)
        while step < self.total and not stopped:
            began = time.monotonic()
            result, lr = self._one_step(step)
            step += 1
            self._note(step, result, lr, time.monotonic() - began)
            # A signal may have reached one rank only: they agree here, and stop together.
            stopped = "a signal" if ranks.most(float(stop.requested is not None)) else ""
            due = recipe.evaluation.every and step % recipe.evaluation.every == 0
            owed = self.job.steps.evaluates and (bool(due) or step == self.total)
            # A stop does not wait for an evaluation: the next start makes it up.
            evaluated = owed and (not stopped or step == self.total)
            if evaluated:
                self._evaluate(step)
            self.owed = owed and not evaluated
            every = recipe.checkpoint.every
            if step == self.total or stopped or (every and step % every == 0):
                self._save(step, evaluated)
        self.store.wait()
        ranks.barrier()
        return Outcome(
            step,
            self.total,
            stopped and (stop.requested or stopped),
            (stop.exit_code or REQUEUE_EXIT_CODE) if stopped and step < self.total else 0,
            self.evaluation,
            self.counts.skipped,
        )

    def _one_step(self, step: int) -> tuple[StepResult, float]:
        section = self.job.recipe.optimizer
        lr = lr_at(
            step,
            self.total,
            lr=section.lr,
            kind=section.schedule,
            warmup_ratio=section.warmup_ratio,
            min_lr_ratio=section.min_lr_ratio,
        )
        return self.job.steps.step(step, lr), lr

    def _note(self, step: int, result: StepResult, lr: float, seconds: float) -> None:
        """Count, write down and show a step; raise where too many were skipped."""
        counts, faults = self.counts, self.job.recipe.faults
        counts.tokens += result.tokens
        counts.trained += result.trained
        skipped = not (math.isfinite(result.grad_norm) and math.isfinite(result.loss))
        counts.skipped += skipped
        values: dict[str, float | int | str | bool] = {
            "loss": result.loss,
            **result.others,
            "lr": lr,
            "grad_norm": result.grad_norm,
            **result.told,
            "tokens": counts.tokens,
            "trained_tokens": counts.trained,
            "step_tokens": result.tokens,
            "skipped_steps": counts.skipped,
        }
        speed = self.meter.update(step, result.tokens, seconds)
        timings = {
            "seconds": seconds,
            "tokens_per_second": speed.tokens_per_second,
            "seconds_left": speed.seconds_left,
            "peak_memory_gb": _peak_memory(self.job.ranks) / 1e9,
            **result.timings,
        }
        if speed.mfu is not None:
            timings["mfu"] = speed.mfu
        if self.metrics is not None:
            self.metrics.write(step, values, timings)
            self.trackers.write(step, {**values, **timings})
            shown = {name: values[name] for name in ("loss", *result.shown, "lr", "grad_norm")}
            shown |= {name: timings[name] for name in ("tokens_per_second", "mfu") if name in timings}
            self.live.step(step, shown, speed.seconds_left)  # type: ignore[arg-type]
            self.live.count("skipped steps", counts.skipped)
        if step >= faults.grace_steps and counts.skipped > faults.max_skipped_share * step:
            raise ValueError(
                f"{counts.skipped} of {step} steps were skipped for a loss or gradient that is not finite, "
                f"more than faults.max_skipped_share={faults.max_skipped_share}: lower optimizer.lr, look at "
                f"the rows of step {step} ({METRICS} names the steps), or raise the share"
            )

    def _evaluate(self, step: int) -> None:
        began = time.monotonic()
        self.evaluation = self.job.steps.evaluate()
        if self.metrics is not None:
            self.metrics.write(step, self.evaluation, {"seconds": time.monotonic() - began}, kind="eval")
            self.trackers.write(step, self.evaluation, kind="eval")
            self.live.evaluated(step, self.evaluation)

    def _save(self, step: int, evaluated: bool) -> None:
        if self.metrics is not None:
            self.metrics.sync()
        state: dict[str, JsonValue] = {
            "updates": self.job.engine.updates,
            "tokens": self.counts.tokens,
            "trained": self.counts.trained,
            "skipped": self.counts.skipped,
            # As text where it is not finite, which JSON has no number for; `_load` reads both.
            "evaluation": {k: v if math.isfinite(v) else str(v) for k, v in self.evaluation.items()},
            "evaluation_owed": self.owed,
            "recipe": self.job.recipe.model_dump(mode="json"),
            "revision": self.job.revision,
        }
        tensors = {name: tensor.to("cpu") for name, tensor in self.job.engine.state()}
        metric = self.evaluation.get(self.job.steps.metric) if evaluated else None
        self.store.save(step, tensors, state, rng.capture(), metric)


def _common_attempt(ranks: Ranks) -> str:
    """A text that no earlier start had, the same on all ranks."""
    return str(int(ranks.most(float(int.from_bytes(os.urandom(6), "big")) if ranks.main else 0.0)))


def _peak_memory(ranks: Ranks) -> float:
    """Bytes: of the device where it is one, else of the process."""
    if ranks.device.type == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated(ranks.device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def revision_of(folder: Path) -> str:
    """The code's git revision, with `+` where files differ from it; empty outside a checkout."""
    import subprocess

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    revision = git("rev-parse", "HEAD")
    return revision + ("+" if revision and git("status", "--porcelain") else "")


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, JsonValue]:
    """Nested settings as one level of dotted names."""
    found: dict[str, JsonValue] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found

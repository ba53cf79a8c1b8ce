"""A signal to every process of a run, as a cluster sends it: the step is ended and saved, none is lost."""

import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from kit.grpo.recipe import GrpoRecipe
from kit.training.checkpoint_files import steps_in
from kit.training.signals import REQUEUE_EXIT_CODE
from tests.kit.grpo.made import grpo_recipe, train
from tests.kit.grpo.test_resume import all_of, differs, recipe_of
from tests.kit.grpo.test_vllm_sampler_resume import tables
from tests.kit.training.workers import launch

pytestmark = pytest.mark.slow

Moment = tuple[int, str]
"""Step (from 0), and what it is at."""
DELAY = 0.05
"""Seconds after the beginning of what takes long."""


def preempted(recipe: dict[str, Any], moment: Moment, numbers: Sequence[int]) -> dict[str, Any]:
    """Train; at the moment this process and all below it get the signals."""
    from kit.grpo.phase import grpo

    sent = _arm(moment, numbers)
    outcome = grpo(GrpoRecipe.parse(recipe, "the test"))
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    left = [line for line in left if "resource_tracker" not in line]  # multiprocessing's, until this one ends
    return {
        "steps": outcome.steps,
        "stopped": outcome.stopped,
        "code": outcome.exit_code,
        "sent": sent,
        "left": left,
    }


def _arm(moment: Moment, numbers: Sequence[int]) -> list[str]:
    """Replace one function by one that has the signals sent while it works; who got them."""
    from kit.grpo import steps
    from kit.grpo.samplers.base import EngineSampler
    from kit.grpo.samplers.local import LocalSampler
    from kit.rewards.judge import Judge

    now, sent = [-1], list[str]()
    one_step = steps.GrpoSteps.step

    def noted(self: Any, number: int, lr: float) -> Any:
        now[0] = number
        return one_step(self, number, lr)

    steps.GrpoSteps.step = noted  # type: ignore[method-assign, assignment]

    def send() -> None:
        me = psutil.Process()
        for process in (*me.children(recursive=True), me):
            sent.append(" ".join(process.cmdline()))
            # A trainer that gets Ctrl-C's, too, does not ask to be requeued.
            for number in numbers if process == me else (*numbers, signal.SIGINT):
                process.send_signal(number)

    def during(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if now[0] != moment[0] or sent:
                return original(*arguments, **settings)
            sender = threading.Timer(DELAY, send)
            sender.start()
            result = original(*arguments, **settings)
            sender.join()
            return result

        return call

    for holder, name in {
        "drawing": ((LocalSampler, "sample"), (EngineSampler, "sample")),
        "scoring": ((Judge, "score"),),
        "training": ((steps, "run_step"),),
    }[moment[1]]:
        setattr(holder, name, during(getattr(holder, name)))
    return sent


def stops(recipe: GrpoRecipe, moment: Moment, numbers: Sequence[int]) -> list[str]:
    """The run saves that very step and asks to be requeued; command lines of who was signalled."""
    ended = launch(preempted, 1, recipe.model_dump(mode="json"), moment, numbers).result
    step = moment[0] + 1
    assert (ended["steps"], ended["code"]) == (step, REQUEUE_EXIT_CODE)
    assert signal.Signals[ended["stopped"]] in numbers
    assert ended["left"] == []
    assert steps_in(recipe.out / "checkpoints")[-1] == step
    sent: list[str] = ended["sent"]
    return sent


def test_reward_workers_work_until_the_step_is_saved(tmp_path: Path) -> None:
    """The numbers are those of a run that nobody disturbed."""
    recipe = recipe_of(tmp_path, "torch", 0, 4)
    assert launch(train, 1, recipe.model_dump(mode="json")).result["steps"] == 4
    expected = all_of(recipe.out)
    shutil.rmtree(recipe.out)
    for moment, number in (
        ((0, "drawing"), signal.SIGUSR1),
        ((1, "scoring"), signal.SIGTERM),
        ((2, "training"), signal.SIGUSR2),
    ):
        sent = stops(recipe, moment, (signal.SIGCONT, number))
        assert any("kit.rewards.supervisor" in line for line in sent)
    assert launch(train, 1, recipe.model_dump(mode="json")).result["steps"] == 4
    assert differs(all_of(recipe.out), expected) == []


def test_the_engine_draws_until_the_step_is_saved(tmp_path: Path) -> None:
    """vLLM beside the trainer, which draws ahead: all that it drew is kept."""
    recipe = grpo_recipe(
        tmp_path,
        batch={"num_episodes": 3},
        rollout={
            "sampler": "vllm",
            "overlap": True,
            "max_completion_tokens": 48,
            "engine": {"max_model_len": 96, "max_num_seqs": 12, "cpu_kv_cache_gib": 1},
            "sync_timeout": 120.0,
        },
        checkpoint={"every": 0},
    )
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGCONT)
    sent = stops(recipe, (0, "drawing"), numbers)
    assert any("VLLM" in line or "spawn_main" in line for line in sent)
    assert any("watch.py" in line for line in sent)
    before = tables(recipe.out)
    assert list(before) == ["step-00000000.parquet", "step-00000001.parquet"]
    stops(recipe, (1, "training"), numbers)
    after = tables(recipe.out)
    assert len(after) == 3 and {name: after[name] for name in before} == before
    assert steps_in(recipe.out / "checkpoints") == [1, 2]

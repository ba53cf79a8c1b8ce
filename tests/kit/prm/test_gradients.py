"""A step's gradient does not depend on how the step is cut: micro-batches, ranks, packing, padding, order."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from kit.prm.rows import StepRow
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

HEADS = ("token_classification", "process_reward", "logprob", "prefix")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return make_tiny_checkpoint(folder, architecture="qwen2", hidden=64, heads=2, layers=2, seed=5)


def rows(head: str, count: int = 9, seed: int = 0) -> list[StepRow]:
    """Random rows of 2 to 5 steps, of which some have no label, and labels between 0 and 1."""
    from kit.prm.rows import step_row
    from submission.prm.layout import lay_out

    random, made = Random(seed), []
    kind: Any = "logprob" if head == "prefix" else head
    for index in range(count):
        steps = [
            [random.randint(3, 250) for _ in range(random.randint(1, 6))] for _ in range(random.randint(2, 5))
        ]
        prompt = [random.randint(3, 250) for _ in range(random.randint(1, 8))]
        (layout,) = lay_out(prompt, steps, [10, 11], 200)
        labels = [random.choice([None, 0.0, 1.0, random.random()]) for _ in steps]
        labels[random.randrange(len(steps))] = random.random()
        span = "prefix" if head == "prefix" else "step"
        row = step_row(layout, labels, index, head=kind, span=span)
        assert row is not None
        made.append(row)
    return made


def gradients(folder: str, out: str, head: str, capacity: int, packing: bool, order: int) -> None:
    """One step's gradients in float64, summed over ranks, into `out` by rank 0."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import save_file

    from kit.losses.step_labels import ClassWeights
    from kit.prm.heads import Scalars, load_scorer, wrap_scorer
    from kit.prm.objective import StepObjective
    from kit.prm.recipe import HeadSection
    from kit.training.batches import collate
    from kit.training.engines.torch_engine import TorchEngine
    from kit.training.packing import plan_step
    from kit.training.ranks import join, leave
    from kit.training.recipe import ModelSection, OptimizerSection

    ranks = join(60.0)
    section = ModelSection.parse({"path": folder, "dtype": "float64"}, "the test")
    kind: dict[str, Any] = {"kind": "logprob", "span": "prefix"} if head == "prefix" else {"kind": head}
    settings = HeadSection.parse(kind, "the test")
    model = load_scorer(Path(folder), section, settings, 3, quantize=False)
    model.train()
    scalars = Scalars(0.05, 1.5, gain=2.0)
    engine = TorchEngine(wrap_scorer(model, settings, chunk=7, scalars=scalars), OptimizerSection(), ranks)
    given = rows(head)
    Random(order).shuffle(given)
    objective = StepObjective(ClassWeights(0.8, 1.7))
    divisor = objective.divisor(given)
    plan = plan_step([len(row) for row in given], capacity, ranks.world_size, packing=packing)
    for part in plan[ranks.rank]:
        micro = collate([given[index] for index in part], "cpu", packing=packing)
        total, _ = engine.module(micro, objective.token_loss(micro))
        engine.backward(total / divisor)
    grads = engine.gradients()
    for grad in grads.values():
        if ranks.world_size > 1:
            dist.all_reduce(grad)
    if ranks.main:
        save_file({name: grad.contiguous() for name, grad in grads.items()}, out)
    torch.set_default_dtype(torch.float32)
    leave()


def run(model: Path, out: Path, world_size: int, head: str, *cut: Any) -> dict[str, Any]:
    from safetensors.torch import load_file

    _ = launch(gradients, world_size, str(model), str(out), head, *cut).result
    return load_file(out)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_gradients_do_not_depend_on_how_a_step_is_cut(model: Path, tmp_path: Path, head: str) -> None:
    expected = run(model, tmp_path / "whole.safetensors", 1, head, 4096, True, 0)
    unused = {"causal.lm_head.weight"} if head != "logprob" else set()
    assert all(float(grad.abs().max()) > 0 for name, grad in expected.items() if name not in unused)
    if head in ("logprob", "prefix"):
        assert {"log_scale", "shift"} <= expected.keys()
    worst = {}
    for world_size, capacity, packing, order in (
        (1, 60, True, 0),
        (1, 60, False, 1),
        (2, 4096, True, 2),
        (2, 70, False, 3),
        (4, 60, True, 4),
    ):
        found = run(model, tmp_path / "cut.safetensors", world_size, head, capacity, packing, order)
        assert found.keys() == expected.keys()
        worst[f"{world_size} ranks, {capacity} tokens, packing {packing}"] = max(
            float((found[name] - grad).abs().max() / grad.abs().max().clamp(min=1e-30))
            for name, grad in expected.items()
        )
    assert max(worst.values()) < 1e-10, json.dumps(worst, indent=1)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_gradients_by_finite_differences(model: Path, head: str) -> None:
    """Of a few weights anywhere in the model: the whole way from weights to loss."""
    import torch

    from kit.prm.heads import Scalars, load_scorer, wrap_scorer
    from kit.prm.objective import StepObjective
    from kit.prm.recipe import HeadSection
    from kit.training.batches import collate
    from kit.training.recipe import ModelSection

    section = ModelSection.parse({"path": str(model), "dtype": "float64"}, "the test")
    kind: dict[str, Any] = {"kind": "logprob", "span": "prefix"} if head == "prefix" else {"kind": head}
    settings = HeadSection.parse(kind, "the test")
    scorer = load_scorer(model, section, settings, 3, quantize=False).eval()
    module = wrap_scorer(scorer, settings, chunk=5, scalars=Scalars(0.05, 1.5, gain=2.0))
    objective = StepObjective()
    micro = collate(rows(head, 4), "cpu")

    def loss() -> Any:
        return module(micro, objective.token_loss(micro))[0]

    named = dict(module.named_parameters())
    loss().backward()
    for name, parameter in named.items():
        if parameter.grad is None or not parameter.grad.any():
            continue
        place = int(parameter.grad.abs().argmax())
        flat = parameter.detach().view(-1)
        values = []
        # Norms are float32, before which no smaller move is seen well; behind them a ReLU wants a small one.
        step = 1e-3 if ".model." in name else 1e-6
        for move in (step, -2 * step):
            with torch.no_grad():
                flat[place] += move
                values.append(float(loss()))
        with torch.no_grad():
            flat[place] += step
        expected = (values[0] - values[1]) / (2 * step)
        found = float(parameter.grad.view(-1)[place])
        assert found == pytest.approx(expected, rel=2e-2, abs=1e-4), name


def test_step_sums_by_hand() -> None:
    import torch

    from kit.prm.heads import step_sums

    logprobs = -torch.arange(1.0, 7.0, dtype=torch.float64)
    none: Any = np.zeros(0)
    first = StepRow(none, none, 0, np.array([2, 0, 1]), np.array([1.0, 0.0, 1.0]))
    second = StepRow(none, none, 1, np.array([3]), np.array([1.0]))
    assert step_sums(logprobs, [first, second], prefix=False).tolist() == [-3.0, 0.0, -3.0, -15.0]
    assert step_sums(logprobs, [first, second], prefix=True).tolist() == [-3.0, -3.0, -6.0, -15.0]
    assert step_sums(logprobs[:0], [], prefix=True).tolist() == []

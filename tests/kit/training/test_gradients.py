"""The gradient of a step does not depend on how the step is cut: micro-batches, ranks, packing, padding."""

import json
from pathlib import Path
from typing import Any

import pytest

from kit.training.batches import collate
from kit.training.packing import plan_step
from tests.kit.training.made import token_rows
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

ROWS = 9
LOSSES = ("ce", "kd")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=64, heads=2, layers=2, seed=5)


def gradients(folder: str, out: str, cuts: list[dict[str, Any]]) -> None:
    """One step's gradients in float64, summed over ranks, into `out` by rank 0: a file a cut, by its name."""
    from kit.training.ranks import join, leave

    ranks = join(60.0)
    for cut in cuts:
        _one(folder, out, ranks, **cut)
    leave()


def _one(
    folder: str,
    out: str,
    ranks: Any,
    name: str,
    capacity: int = 512,
    packing: bool = True,
    loss: str = "ce",
    attention: str = "auto",
    checkpointing: bool = False,
) -> None:
    import torch
    import torch.distributed as dist
    from safetensors.torch import save_file

    from kit.losses.cross_entropy import cross_entropy
    from kit.losses.distillation import divergence
    from kit.training.engines.torch_engine import TorchEngine
    from kit.training.model import load_causal, wrap
    from kit.training.recipe import ModelSection, OptimizerSection

    section = ModelSection.parse({"path": folder, "dtype": "float64", "attention": attention}, "the test")
    model = load_causal(Path(folder), section)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    engine = TorchEngine(wrap(model, chunk=16), OptimizerSection(), ranks)
    rows = token_rows(ROWS)
    trained = sum(int(row.mask.sum()) for row in rows)
    for plan in plan_step([len(row) for row in rows], capacity, ranks.world_size, packing=packing)[
        ranks.rank
    ]:
        micro = collate([rows[index] for index in plan], "cpu", packing=packing)
        targets = micro.targets
        # A "teacher" that depends on the target alone, so that it is the same however the rows are cut.
        table = torch.randn(300, 300, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

        def objective(
            logits: Any, part: slice, targets: Any = targets, table: Any = table
        ) -> tuple[Any, dict[str, Any]]:
            if loss == "ce":
                return cross_entropy(logits, targets[part]), {}
            teacher = table[targets[part], : logits.shape[1]]
            return divergence(logits, teacher, kind="jsd", temperature=2.0), {}

        total, _ = engine.module(micro, objective)
        engine.backward(total / trained)
    grads = engine.gradients()
    for grad in grads.values():
        if ranks.world_size > 1:
            dist.all_reduce(grad)
    if ranks.main:
        save_file({key: grad.contiguous() for key, grad in grads.items()}, Path(out) / name)


def run(model: Path, out: Path, world_size: int, cuts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The gradients by the cut's name; all cuts on the same ranks, each with a model of its own."""
    from safetensors.torch import load_file

    _ = launch(gradients, world_size, str(model), str(out), cuts).result
    return {cut["name"]: load_file(out / cut["name"]) for cut in cuts}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest difference of any gradient, relative to the largest element of that gradient."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - expected[name]).abs().max() / expected[name].abs().max()) for name in expected
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_do_not_depend_on_how_a_step_is_cut(model: Path, tmp_path: Path, loss: str) -> None:
    (expected,) = run(model, tmp_path, 1, [{"name": "whole", "loss": loss, "capacity": 4096}]).values()
    assert all(float(grad.abs().max()) > 0 for grad in expected.values())
    worst = {}
    for world_size in (1, 2, 4):
        cuts = [
            {
                "name": f"{world_size} ranks, {capacity} tokens, packing {packing}",
                "loss": loss,
                "capacity": capacity,
                "packing": packing,
            }
            for capacity in (40, 90, 4096)
            for packing in (True, False)
        ]
        for name, found in run(model, tmp_path, world_size, cuts).items():
            worst[name] = difference(found, expected)
    assert len(worst) == 18
    assert max(worst.values()) < 1e-10, json.dumps(worst, indent=1)


@pytest.mark.slow
def test_attention_and_checkpointing_do_not_change_gradients(model: Path, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"attention": "sdpa"}, {"checkpointing": True}]
    expected, *others = run(
        model, tmp_path, 1, [{"name": str(index), **change} for index, change in enumerate(changes)]
    ).values()
    assert [difference(other, expected) < 1e-10 for other in others] == [True, True]


@pytest.mark.slow
def test_a_leak_between_packed_rows_would_be_seen(model: Path, tmp_path: Path) -> None:
    """The comparison is sharp: rows that see each other have other gradients."""
    import torch

    from kit.training.model import load_causal
    from kit.training.recipe import ModelSection

    causal = load_causal(model, ModelSection.parse({"path": str(model), "dtype": "float64"}, "the test"))
    micro = collate(token_rows(3), "cpu")
    with torch.no_grad():
        apart = causal.get_decoder()(
            input_ids=micro.input_ids, position_ids=micro.position_ids, **micro.attention_arguments()
        ).last_hidden_state
        together = causal.get_decoder()(
            input_ids=micro.input_ids, position_ids=micro.position_ids, segments=()
        )
    first = micro.segments[0]
    leak = (apart - together.last_hidden_state).abs().amax(-1)[0]
    assert float(leak[:first].max()) < 1e-12
    assert float(leak[first:].min()) > 1e-6

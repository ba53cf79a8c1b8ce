"""The gradient of an optimizer step is the papers', however the step is cut: micro-batches, ranks, packing,
padding, the order of completions, whether a group's prompt goes through once, and whether completions that
move nothing are put through."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.objective import PolicyObjective
from kit.grpo.recipe import PolicySection
from kit.grpo.rows import PolicyRow
from kit.losses.token_weights import token_weights
from kit.training.batches import collate
from kit.training.model import load_causal, wrap
from kit.training.recipe import MicroSection, ModelSection
from kit.training.steps import micro_batches
from tests.kit.grpo.made import KINDS, grouped, policy_rows
from tests.kit.grpo.naive import gradients_of
from tests.kit.training.made import exact_norms
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

ROWS, LONGEST, TEMPERATURE = 9, 40, 0.7
CUTS = tuple(itertools.product((80, 4096), (True, False), (False, True), (False, True)))
"""Tokens of a micro-batch, packing, another order of the completions, a prompt once for its group."""


def losses() -> list[PolicySection]:
    """Every kind with every correction of the sampler, a divergence, and clips that are met."""
    return [
        PolicySection.parse(
            {"kind": kind, "mismatch": mismatch, "mismatch_cap": 1.2, "kl_coef": 0.3}
            | ({"clip_low": 0.02, "clip_high": 0.03} if kind == "gspo" else {}),
            "the test",
        )
        for kind in KINDS
        for mismatch in ("none", "token", "sequence")
    ]


def groups() -> list[PolicyRow]:
    """Three groups of three."""
    return grouped(policy_rows(ROWS, longest=LONGEST), 3)


def weighted(rows: list[PolicyRow], section: PolicySection) -> list[PolicyRow]:
    """The weights that a step would give these rows."""
    lengths = [int(row.mask.sum()) for row in rows]
    weights = token_weights(section.kind, lengths, batch_tokens=sum(lengths), max_completion_tokens=LONGEST)
    return [replace(row, weight=weight) for row, weight in zip(rows, weights, strict=True)]


def by_the_papers(rows: list[PolicyRow], section: PolicySection) -> list[PolicyRow]:
    """The weights again: means over sequences of means over tokens, over all tokens, over a constant."""
    tokens = sum(int(row.mask.sum()) for row in rows)
    found = []
    for row in rows:
        weight = {
            "grpo": 1 / len(rows) / int(row.mask.sum()),
            "gspo": 1 / len(rows) / int(row.mask.sum()),
            "dr_grpo": 1 / len(rows) / LONGEST,
        }.get(section.kind, 1 / tokens)
        found.append(replace(row, weight=weight))
    return found


def load(folder: str) -> Any:
    section = ModelSection.parse({"path": folder, "dtype": "float64"}, "the test")
    return exact_norms(load_causal(Path(folder), section))


def gradients(folder: str, out: str) -> None:
    """One step's gradients for every loss and every cut, summed over ranks, into `out` by rank 0."""
    import torch.distributed as dist
    from safetensors.torch import save_file

    from kit.training.engines.torch_engine import TorchEngine
    from kit.training.ranks import join, leave
    from kit.training.recipe import OptimizerSection

    ranks = join(60.0)
    module = wrap(load(folder).train(), chunk=16)
    engine = TorchEngine(module, OptimizerSection(), ranks)
    found = {}
    for number, section in enumerate(losses()):
        objective = PolicyObjective(section, TEMPERATURE, 259)
        for place, (capacity, packing, turned, share) in enumerate(CUTS):
            rows = weighted(groups(), section)
            rows = rows[::-1] if turned else rows
            how = {"max_length": 80, "micro_batch_tokens": capacity, "packing": packing}
            for micro in micro_batches(rows, MicroSection.parse(how, "the test"), ranks, share=share):
                total, _ = engine.module(micro, objective.token_loss(micro))
                engine.backward(total)
            for name, grad in engine.gradients().items():
                if ranks.world_size > 1:
                    dist.all_reduce(grad)
                found[f"{number}/{place}/{name}"] = grad.clone()
            module.zero_grad()
    if ranks.main:
        save_file(found, out)
    leave()


def difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest difference of any gradient, relative to the largest element of that gradient."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - expected[name]).abs().max() / expected[name].abs().max()) for name in expected
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=32, heads=1, layers=2, seed=5)


@pytest.fixture(scope="module")
def naive(folder: Path) -> list[dict[str, Any]]:
    """Of each loss, a sequence at a time."""
    model = load(str(folder))
    rows = groups()
    return [gradients_of(model, section, by_the_papers(rows, section), TEMPERATURE) for section in losses()]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_gradients_are_the_papers_however_a_step_is_cut(
    folder: Path, naive: list[dict[str, Any]], tmp_path: Path, world_size: int
) -> None:
    from safetensors.torch import load_file

    ended = launch(gradients, world_size, str(folder), str(tmp_path / "found.safetensors"))
    assert ended.codes == [0] * world_size, ended.errors
    found = load_file(tmp_path / "found.safetensors")
    worst = {}
    for number, section in enumerate(losses()):
        assert all(float(grad.abs().max()) > 0 for grad in naive[number].values())
        for place, cut in enumerate(CUTS):
            start = f"{number}/{place}/"
            mine = {name.removeprefix(start): grad for name, grad in found.items() if name.startswith(start)}
            worst[f"{section.kind}, {section.mismatch}, {cut}"] = difference(mine, naive[number])
    assert len(worst) == 18 * len(CUTS)
    assert max(worst.values()) < 1e-10, json.dumps(worst, indent=1)


def test_losses_differ(naive: list[dict[str, Any]]) -> None:
    """The comparison is sharp: no two of the losses have the same gradient, but for names of one thing."""
    same = {("bnpo", "dapo")}  # where the batch is one optimizer step
    for (first, one), (second, other) in itertools.combinations(zip(losses(), naive, strict=True), 2):
        if first.mismatch == second.mismatch and (first.kind, second.kind) in same:
            assert difference(one, other) < 1e-10
        else:
            assert difference(one, other) > 1e-4, (first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_no_advantage_may_be_left_out(folder: Path, kind: str) -> None:
    """Put through or not, with their share in the normaliser: the same gradient."""
    import torch

    section = PolicySection.parse({"kind": kind}, "the test")
    model = load(str(folder))
    module = wrap(model, chunk=16)
    rows = [
        replace(row, advantage=row.advantage if index % 3 else 0.0)
        for index, row in enumerate(weighted(policy_rows(8), section))
    ]
    found = []
    for chosen in (rows, [row for row in rows if row.advantage]):
        micro = collate(chosen, "cpu")
        total, _ = module(micro, PolicyObjective(section, TEMPERATURE, 259).token_loss(micro))
        found.append((float(total.detach()), torch.autograd.grad(total, list(model.parameters()))))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for whole, part in zip(found[0][1], found[1][1], strict=True):
        assert float((whole - part).abs().max()) < 1e-12 * float(whole.abs().max())

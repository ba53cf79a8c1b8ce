"""The policy's loss: the papers' numbers, and exactly no ratio, clip or divergence at the start."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.grpo.objective import PolicyObjective
from kit.grpo.recipe import PolicySection
from kit.grpo.rows import PolicyRow
from kit.grpo.scoring import with_scores
from kit.training.batches import collate
from kit.training.model import load_causal, wrap
from kit.training.ranks import Ranks
from kit.training.recipe import MicroSection, ModelSection
from kit.training.steps import StepResult, evaluate
from tests.kit.grpo.made import KINDS, policy_rows
from tests.kit.grpo.naive import logprobs_of, sequence_loss
from tests.tiny import make_tiny_checkpoint

TEMPERATURE = 0.7
VOCABULARY = 259


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=32, heads=1, layers=2, seed=4)


def load(folder: Path, dtype: str = "float64") -> Any:
    return load_causal(folder, ModelSection.parse({"path": str(folder), "dtype": dtype}, "the test"))


def alone() -> Ranks:
    import torch

    return Ranks(0, 1, 0, torch.device("cpu"))


def section(**settings: Any) -> PolicySection:
    return PolicySection.parse({"mismatch": "none"} | settings, "the test")


def batch(capacity: int = 4096, packing: bool = True) -> MicroSection:
    return MicroSection.parse(
        {"max_length": 40, "micro_batch_tokens": capacity, "packing": packing}, "the test"
    )


class Looked:
    """Only what `evaluate` wants of an engine."""

    def __init__(self, model: Any, chunk: int) -> None:
        self.module = wrap(model, chunk=chunk)


def told(
    model: Any, settings: PolicySection, rows: Sequence[PolicyRow], how: MicroSection, chunk: int = 16
) -> StepResult:
    """Loss and other figures over the rows, without gradients."""
    objective = PolicyObjective(settings, TEMPERATURE, VOCABULARY)
    return evaluate(Looked(model, chunk), objective, rows, how, alone())  # type: ignore[arg-type]


def scored(model: Any, rows: Sequence[PolicyRow], how: MicroSection, field: Any = "old") -> list[PolicyRow]:
    return with_scores(
        rows,
        wrap(model, chunk=16),
        field,
        temperature=TEMPERATURE,
        vocabulary=VOCABULARY,
        batch=how,
        ranks=alone(),
    )


def near(model: Any, rows: Sequence[PolicyRow], spread: float, seed: int = 0) -> list[PolicyRow]:
    """The rows with log-probabilities around the model's own: some ratios are clipped, some are not."""
    import torch

    random = np.random.default_rng(seed)
    made = []
    with torch.no_grad():
        for row in rows:
            now = logprobs_of(model, row, TEMPERATURE).numpy()
            old, sampled, reference = (now + random.normal(0, spread, len(now)) for _ in range(3))
            made.append(replace(row, old=old, sampled=sampled, reference=reference))
    return made


# --- scores -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [batch(), batch(60), batch(60, False)])
def test_scores_are_log_probabilities_at_the_temperature(folder: Path, how: MicroSection) -> None:
    import torch

    model, rows = load(folder), policy_rows(7)
    found = scored(model, rows, how, "reference")
    for row, made in zip(rows, found, strict=True):
        with torch.no_grad():
            expected = logprobs_of(model, row, TEMPERATURE).numpy()
        assert np.abs(made.reference - expected).max() < 1e-12
        assert replace(made, reference=row.reference) is not row and np.array_equal(made.old, row.old)


def test_scoring_leaves_the_mode_alone(folder: Path) -> None:
    model = load(folder)
    module = wrap(model)
    for mode in (True, False):
        module.train(mode)
        with_scores(
            policy_rows(2),
            module,
            "old",
            temperature=1.0,
            vocabulary=VOCABULARY,
            batch=batch(),
            ranks=alone(),
        )
        assert module.training is model.training is mode


# --- the start of a batch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_nothing_differs(folder: Path, kind: str, dtype: str) -> None:
    """Ratio 1, nothing clipped, divergence 0, to the last bit: scored first or not, however it is cut."""
    model = load(folder, dtype)
    for how, rescored in itertools.product((batch(), batch(60), batch(60, False)), (True, False)):
        rows = [replace(row, old=np.empty(0)) for row in policy_rows(9)]
        if rescored:
            rows = scored(model, rows, how)
        rows = scored(model, rows, how, "reference")
        found = told(model, section(kind=kind, kl_coef=0.1), rows, how).others
        assert found["ratio"] == 1.0
        assert found["clip_low_fraction"] == found["clip_high_fraction"] == found["kl"] == 0.0
        assert found["entropy"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_gradient_is_the_plain_policy_gradient(folder: Path, kind: str) -> None:
    """-sum of weight x advantage x grad log p (for GSPO with the sequence's mean, which is the same sum)."""
    import torch

    model = load(folder)
    rows = [replace(row, old=np.empty(0)) for row in policy_rows(5)]
    micro = collate(rows, "cpu")
    objective = PolicyObjective(section(kind=kind), TEMPERATURE, VOCABULARY)
    total, _ = wrap(model, chunk=16)(micro, objective.token_loss(micro))
    found = torch.autograd.grad(total, list(model.parameters()))
    plain = sum(-row.weight * row.advantage * logprobs_of(model, row, TEMPERATURE).sum() for row in rows)
    for ours, theirs in zip(found, torch.autograd.grad(plain, list(model.parameters())), strict=True):
        assert float((ours - theirs).abs().max()) < 1e-12


# --- later on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mismatch", ["none", "token", "sequence"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_papers(folder: Path, kind: str, mismatch: str) -> None:
    """Some ratios are clipped on either side; chunks smaller than a sequence."""
    import torch

    model = load(folder)
    rows = near(model, policy_rows(12), 0.2 if kind == "gspo" else 0.3)
    clip = {"clip_low": 0.005, "clip_high": 0.005} if kind == "gspo" else {}
    settings = section(kind=kind, mismatch=mismatch, mismatch_cap=1.3, kl_coef=0.2, **clip)
    with torch.no_grad():
        expected = sum(
            row.weight * float(sequence_loss(settings, row, logprobs_of(model, row, TEMPERATURE)))
            for row in rows
        )
    for how in (batch(), batch(50), batch(50, False)):
        found = told(model, settings, rows, how, chunk=5)
        assert found.loss == pytest.approx(expected, rel=1e-11)
        assert 0 < found.others["clip_low_fraction"] < 0.6
        assert 0 < found.others["clip_high_fraction"] < 0.6
        assert found.others["kl"] > 0
        if mismatch != "none":
            assert 0 < found.others["mismatch_truncated"] < 1
            assert found.others["mismatch_weight"] <= 1.3


def one_row(advantage: float, ratios: Sequence[float], model: Any) -> PolicyRow:
    import torch

    count = len(ratios)
    ids = np.arange(5, 7 + count, dtype=np.int32)
    row = PolicyRow(ids, np.array([0, 0] + [1] * count, np.uint8), advantage=advantage, weight=1.0)
    with torch.no_grad():
        now = logprobs_of(model, row, TEMPERATURE).numpy()
    return replace(row, old=now - np.log(ratios))


@pytest.mark.parametrize(
    ("kind", "advantage", "low", "high"),
    [
        ("grpo", 1.0, 0.0, 0.25),  # of the ratios 0.5, 0.9, 1.1, 2 only 2 is clipped for A > 0
        ("grpo", -1.0, 0.25, 0.0),
        ("cispo", 1.0, 0.25, 0.25),  # which clips a weight on both sides
        ("cispo", -1.0, 0.25, 0.25),
    ],
)
def test_clip_fractions_by_hand(folder: Path, kind: str, advantage: float, low: float, high: float) -> None:
    model = load(folder)
    row = one_row(advantage, [0.5, 0.9, 1.1, 2.0], model)
    found = told(model, section(kind=kind), [row], batch()).others
    assert (found["clip_low_fraction"], found["clip_high_fraction"]) == (low, high)
    assert found["ratio"] == pytest.approx(4.5 / 4)


@pytest.mark.parametrize(("level", "weight"), [("token", (0.5 + 2.0) / 2), ("sequence", 1.5)])
def test_mismatch_by_hand(folder: Path, level: str, weight: float) -> None:
    """p_trainer / p_sampler is 1/2 and 3 for the two tokens, and 3/2 for both together; the cap is 2."""
    model = load(folder)
    row = one_row(1.0, [1.0, 1.0], model)
    row = replace(row, sampled=row.old - np.log([0.5, 3.0]))
    found = told(model, section(kind="grpo", mismatch=level), [row], batch()).others
    assert found["mismatch_weight"] == pytest.approx(weight)
    assert found["mismatch_kl"] == pytest.approx(-np.log(1.5) / 2)
    assert found["mismatch_truncated"] == (0.5 if level == "token" else 0.0)


def test_an_unknown_sampler_probability_weighs_one(folder: Path) -> None:
    model = load(folder)
    row = one_row(1.0, [1.0, 1.0], model)
    row = replace(row, sampled=np.array([np.nan, row.old[1] - np.log(1.5)]))
    found = told(model, section(kind="grpo", mismatch="token"), [row], batch()).others
    assert found["mismatch_weight"] == pytest.approx((1 + 1.5) / 2)
    assert found["mismatch_kl"] == pytest.approx(-np.log(1.5) / 2)


def test_padding_of_the_vocabulary_has_no_probability(folder: Path) -> None:
    """Rows of the head that stand for no token change nothing."""
    import torch

    model, rows = load(folder), policy_rows(3)
    expected = told(model, section(), rows, batch())
    wide = torch.nn.Linear(32, 300, bias=False, dtype=torch.float64)
    with torch.no_grad():
        wide.weight.fill_(0.7)
        wide.weight[:VOCABULARY] = model.get_output_embeddings().weight
    model.set_output_embeddings(wide)
    found = told(model, section(), rows, batch())
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.others["entropy"] == pytest.approx(expected.others["entropy"], rel=1e-12)

"""The trainer's own sampler: its log-probabilities against the trainer's, and its completions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.grpo.recipe import PolicySection
from kit.grpo.rollout import Completion, Request
from kit.grpo.rows import PolicyRow, policy_row
from kit.grpo.samplers.local import LocalSampler
from kit.grpo.scoring import with_scores
from kit.training.chat import open_chat
from kit.training.model import load_causal, load_tokenizer, wrap
from kit.training.ranks import Ranks
from kit.training.recipe import MicroSection, ModelSection
from submission.engines.base import Sampling
from tests.tiny import make_tiny_checkpoint

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12], [20, 21]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=32, heads=1, layers=2, seed=3)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """With larger weights of the head than a random model has, so that top-p leaves something out."""
    import torch

    made = load_causal(folder, ModelSection.parse({"path": str(folder), "dtype": "float64"}, "the test"))
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(6)
    return made


def alone() -> Ranks:
    import torch

    return Ranks(0, 1, 0, torch.device("cpu"))


def drawn(
    model: Any, folder: Path, sampling: Sampling, prompts: list[list[int]] = PROMPTS, max_rows: int = 512
) -> list[Completion]:
    sampler = LocalSampler(wrap(model), open_chat(load_tokenizer(folder)), alone(), max_rows=max_rows)
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    found = sampler.sample(requests, sampling)
    assert all(isinstance(one, Completion) for one in found)
    return [one for one in found if isinstance(one, Completion)]


def scored(model: Any, temperature: float, completions: list[Completion]) -> list[PolicyRow]:
    rows = [
        policy_row(prompt, one, index, 1.0)
        for index, (prompt, one) in enumerate(zip(PROMPTS * 5, completions, strict=True))
    ]
    batch = MicroSection.parse({"max_length": 40, "micro_batch_tokens": 100}, "the test")
    how: dict[str, Any] = {"temperature": temperature, "vocabulary": 259, "batch": batch, "ranks": alone()}
    return with_scores(rows, wrap(model), "old", **how)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_both_sides_have_the_same_log_probabilities(model: Any, folder: Path, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, max_tokens=12)
    for row in scored(model, temperature, drawn(model, folder, sampling, PROMPTS * 5)):
        assert len(row.old) == len(row.sampled) > 0
        assert np.abs(row.old - row.sampled).max() < 1e-9


def test_top_p_differs_by_its_mass_at_most(model: Any, folder: Path) -> None:
    """The sampler draws from the likeliest tokens of joint probability m, 0.8 <= m <= 1: each is 1/m times
    likelier there than for the trainer."""
    sampling = Sampling(temperature=0.7, top_p=0.8, max_tokens=12)
    rows = scored(model, 0.7, drawn(model, folder, sampling, PROMPTS * 5))
    difference = np.concatenate([row.sampled - row.old for row in rows])
    assert difference.min() >= -1e-9
    assert difference.max() <= -math.log(0.8) + 1e-9
    assert difference.mean() > 0.05  # the bound is not met by drawing from all


def test_top_p_shows_as_a_weight_below_one(model: Any, folder: Path) -> None:
    """What truncated importance sampling makes of it: m itself, within [top_p, 1]."""
    from dataclasses import replace

    from tests.kit.grpo.test_objective import batch, told

    sampling = Sampling(temperature=0.7, top_p=0.8, max_tokens=12)
    rows = scored(model, 0.7, drawn(model, folder, sampling, PROMPTS * 5))
    rows = [replace(row, weight=0.1) for row in rows]
    settings = PolicySection.parse({"kind": "grpo", "mismatch": "token"}, "the test")
    found = told(model, settings, rows, batch()).others
    assert 0.8 <= found["mismatch_weight"] < 0.97
    assert found["mismatch_truncated"] == 0
    assert found["ratio"] == pytest.approx(1.0, abs=1e-12)


def test_completions_as_they_are_told(model: Any, folder: Path) -> None:
    found = drawn(model, folder, Sampling(max_tokens=40), PROMPTS * 5)
    assert {one.finish for one in found} == {"stop", "length"}
    tokenizer = load_tokenizer(folder)
    for one in found:
        assert len(one.ids) == len(one.logprobs) == len(one.mask)
        assert set(one.mask) == {1} and (one.tool_calls, one.tool_errors) == (0, 0)
        assert (one.ids[-1] == 258) == (one.finish == "stop")
        assert len(one.ids) == 40 or one.finish == "stop"
        assert one.text == tokenizer.decode(one.ids, skip_special_tokens=True)
    again = drawn(model, folder, Sampling(max_tokens=40), PROMPTS * 5, max_rows=3)
    assert [(one.ids, one.text, one.finish) for one in again] == [
        (one.ids, one.text, one.finish) for one in found
    ]


def test_there_is_one_copy_of_the_weights(model: Any, folder: Path) -> None:
    sampler = LocalSampler(wrap(model), open_chat(load_tokenizer(folder)), alone(), max_rows=1)
    assert sampler.sync(iter(())).checksum == ""
    sampler.close()
    sampler.close()

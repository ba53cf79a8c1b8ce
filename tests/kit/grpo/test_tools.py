"""Roll-outs with a tool: a model that was taught to write code, the real engine, the real sandbox."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.records import Record, write_records
from kit.distill.phase import distill
from kit.distill.recipe import DistillRecipe
from kit.grpo.recipe import GrpoRecipe, ToolSection
from kit.grpo.rollout import Completion, Request
from kit.grpo.rows import policy_row
from kit.small import make_small_model

CODE = "```python\nprint(6 * 7)\n```\n```output"
OUTPUT = "\n42\n```\n"
ANSWER = "\\boxed{42}"
PROBLEM = "What is 6 * 7?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knows one answer by heart, code and output included."""
    folder = tmp_path_factory.mktemp("coder")
    make_small_model(folder / "init", hidden=64, layers=2, heads=2, intermediate=128, seed=0)
    write_records(
        folder / "data.jsonl", [Record(problem=PROBLEM, answer="42", completion=CODE + OUTPUT + ANSWER)]
    )
    recipe: dict[str, Any] = {
        "out": str(folder / "run"),
        "model": {"path": str(folder / "init"), "dtype": "float32", "gradient_checkpointing": False},
        "data": {"path": str(folder / "data.jsonl")},
        "loss": {"alpha": 0.0},
        "batch": {"batch_size": 1, "max_length": 128, "epochs": 150},
        "optimizer": {"lr": 4e-3},
        "parallel": {"engine": "torch"},
        "checkpoint": {"every": 0},
        "logging": {"live": "never"},
    }
    distill(DistillRecipe.parse(recipe, "the test"))
    return folder / "run" / "model"


@pytest.mark.slow
def test_code_runs_and_its_output_is_not_trained_on(model: Path) -> None:
    import torch

    from kit.grpo.samplers.vllm import VllmSampler
    from kit.training.chat import open_chat
    from kit.training.model import load_tokenizer
    from kit.training.ranks import Ranks
    from submission.engines.base import Sampling
    from submission.settings import EngineSettings

    chat = open_chat(load_tokenizer(model))
    prompt = chat.prompt(Record(problem=PROBLEM))
    settings = EngineSettings(max_model_len=256, max_num_seqs=4, cpu_kv_cache_gib=1)
    # One worker for three samples: those that come later wait for its session.
    tools = ToolSection.parse({"rounds": 2, "sandbox": {"workers": 1}}, "the test")
    sampler = VllmSampler(model, settings, Ranks(0, 1, 0, torch.device("cpu")), tools=tools)
    try:
        drawn = sampler.sample(
            [Request(prompt, seed) for seed in (1, 2, 3)], Sampling(temperature=0.0, max_tokens=120)
        )
    finally:
        sampler.close()
    for completion in drawn:
        assert isinstance(completion, Completion), completion
        assert completion.text == CODE + OUTPUT + ANSWER
        assert (completion.finish, completion.tool_calls, completion.tool_errors) == ("stop", 1, 0)
        mask = np.array(completion.mask, bool)
        ids = np.array(completion.ids)
        decode = chat.tokenizer.decode
        assert decode(ids[~mask].tolist()) == OUTPUT
        assert decode(ids[mask].tolist(), skip_special_tokens=True) == CODE + ANSWER
        assert np.isnan(np.array(completion.logprobs)[~mask]).all()
        assert np.isfinite(np.array(completion.logprobs)[mask]).all()
        row = policy_row(prompt, completion, 0, 1.0)
        assert row.mask.sum() == mask.sum() == len(row.sampled)
        assert np.isfinite(row.sampled).all()


def test_tools_need_the_engine_that_stops_at_code() -> None:
    with pytest.raises(ValueError, match=r"rollout\.tools needs rollout\.sampler"):
        GrpoRecipe.parse({"rollout": {"sampler": "local", "tools": {}}}, "the test")

"""Tiny process reward models of each form, with heads wide enough that the scores differ."""

import json
from pathlib import Path
from typing import Any, Literal

from submission.prm.heads import EXTRA, PRM_FILE
from tests.tiny import make_tiny_checkpoint

CANDIDATES = (
    "First, 1 + 1 = 2.\n\nThen 2 + 2 = 4.\n\nSo \\boxed{4}.",
    "First, 1 + 1 = 2.\n\nThen 2 + 2 = 4.\n\nSo the answer is 5.",
    "First, 1 + 1 = 2.\n\nThen 2 + 2 = 5.",
    "<think>Hm.\n\nYes.</think>It is 4.",
    "First, 1 + 1 = 2.\n\nThen 2 + 2 = 4.\n\nSo \\boxed{4}.",
    "",
    "\n\n".join(f"Step {number}: the sum so far is {number * number}." for number in range(1, 30)),
)
"""Shared beginnings, equal ones, thoughts, an empty one, and one that needs windows at 512 tokens."""


def classifier(
    folder: Path,
    labels: int = 2,
    *,
    architecture: Literal["llama", "qwen2"] = "qwen2",
    max_positions: int = 512,
    **config: Any,
) -> Path:
    """A `...ForTokenClassification` with the separator `<extra_0>` as a token."""
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    make_tiny_checkpoint(folder, vocab_texts=[EXTRA], architecture=architecture, max_positions=max_positions)
    shape = AutoConfig.from_pretrained(folder, num_labels=labels, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForTokenClassification.from_config(shape)
        model.score.weight.data.normal_(std=0.3)
    model.save_pretrained(folder)
    return _mixing(folder)


def process_reward(folder: Path, *, max_positions: int = 512) -> Path:
    """As Qwen2.5-Math-PRM is laid out: `model.*`, `score.0.*`, `score.2.*`, code that nobody runs."""
    import torch
    from safetensors.torch import load_file, save_file

    make_tiny_checkpoint(folder, vocab_texts=[EXTRA], architecture="qwen2", max_positions=max_positions)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    hidden = tensors["model.norm.weight"].shape[0]
    draw = torch.Generator().manual_seed(1)
    for layer, rows in (("score.0", hidden), ("score.2", 2)):
        tensors[f"{layer}.weight"] = torch.randn(rows, hidden, generator=draw) * 0.1
        tensors[f"{layer}.bias"] = torch.randn(rows, generator=draw) * 0.1
    save_file(tensors, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["Qwen2ForProcessRewardModel"]
    config["auto_map"] = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_qwen2_rm.py").write_text("raise SystemExit('a checkpoint ran its own code')")
    return _mixing(folder)


def policy(folder: Path, *, max_positions: int = 512, **form: Any) -> Path:
    """A language model whose own log-probability is the score."""
    make_tiny_checkpoint(folder, architecture="qwen2", max_positions=max_positions)
    described = {"head": "logprob", "scale": 0.02, "bias": 3.0, **form}
    (folder / PRM_FILE).write_text(json.dumps(described))
    return _mixing(folder)


def _mixing(folder: Path) -> Path:
    """Layers large enough that what stands before a token decides about its hidden state."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.dim() == 2:
            tensor.mul_(8)
    save_file(tensors, path, {"format": "pt"})
    return folder

"""Small checkpoints and traces that the quantizer's tests are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from kit.data.records import Record, write_records
from kit.worked import generate
from tests.kit.package.made import CONFIG

LAYER = "model.layers.0.mlp.up_proj"
PLAIN: dict[str, Any] = {
    "model.embed_tokens.weight": np.ones((16, 8), np.float32),
    "model.norm.weight": np.ones(8, np.float32),
    f"{LAYER}.weight": np.ones((4, 8), np.float32),
    f"{LAYER}.bias": np.ones(4, np.float32),
}
INT8: dict[str, Any] = {
    **{name: value for name, value in PLAIN.items() if name != f"{LAYER}.weight"},
    f"{LAYER}.weight": np.ones((4, 8), np.int8),
    f"{LAYER}.weight_scale": np.ones((4, 1), np.float32),
}


def checkpoint(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """Weights and a configuration; no tokenizer."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = {**CONFIG, "tie_word_embeddings": True, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def traces(path: Path, count: int, **changes: Any) -> Path:
    """Worked problems as a trace file."""
    write_records(path, [record.model_copy(update=changes) for record in generate(count, "train", 0)])
    return path


def solved(problem: str, completion: str = "It is 4.", **fields: Any) -> Record:
    """A record of one line."""
    return Record(problem=problem, completion=completion, **fields)

"""A run's folder to launch from: recipes, a model's configuration, a set, and a command line called in it."""

import json
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from kit.launch.__main__ import app

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
RECIPE = """
out = "runs/{phase}"
[model]
path = "model"
dtype = "float32"
[data]
path = "data.jsonl"
[parallel]
engine = "torch"
[assume]
gpu_memory_gb = 24.0
"""


def make_place(folder: Path) -> Path:
    """Files of that name in `folder`, with a recipe for each phase."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    (folder / "data.jsonl").write_text(
        json.dumps({"problem": "1+1?", "answer": "2", "completion": "2"}) + "\n"
    )
    for phase in ("distill", "grpo", "prm"):
        (folder / f"{phase}.toml").write_text(RECIPE.format(phase=phase))
    with (folder / "distill.toml").open("a") as file:
        file.write("[loss]\nalpha = 0.0\n")
    return folder


@dataclass(frozen=True)
class Said:
    """What a command line said, and its exit code."""

    code: int
    out: str
    err: str


def launch(*words: object) -> Said:
    """`python -m kit.launch` in this process and folder; a mistake is exit code 2 with its message."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, ValueError):
        return Said(2, result.stdout, str(result.exception))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)

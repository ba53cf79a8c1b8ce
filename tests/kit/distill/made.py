"""Teachers and recipes for the tests of distillation."""

import json
import shutil
from pathlib import Path
from typing import Any

from kit.distill.recipe import DistillRecipe
from tests.kit.training.made import small_recipe
from tests.tiny import make_tiny_checkpoint


def teacher(folder: Path, *, pad_to: int = 0, template: str = "", eos: str = "", seed: int = 9) -> Path:
    """A tiny teacher; with `pad_to` its embedding and head have rows beyond the tokenizer's."""
    make_tiny_checkpoint(folder, hidden=64, heads=2, layers=2, seed=seed)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    if eos:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": eos}))
    if pad_to:
        pad(folder, pad_to)
    return folder


def pad(folder: Path, rows: int, scale: float = 3.0) -> None:
    """Give a checkpoint more rows than its tokenizer has tokens, with numbers that would be seen."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    real = model.config.vocab_size
    model.resize_token_embeddings(rows)
    with torch.no_grad():
        torch.manual_seed(0)
        model.get_output_embeddings().weight[real:].normal_(std=scale)
    model.save_pretrained(folder)


def distill_recipe(folder: Path, **sections: dict[str, Any]) -> DistillRecipe:
    """A short run with an online teacher on plain torch."""
    base: dict[str, dict[str, Any]] = {
        "batch": {"max_steps": 4},
        "evaluation": {"every": 0},
        "optimizer": {"lr": 1e-3, "eps": 1e-4, "warmup_ratio": 0.0},
        "loss": {"alpha": 0.6, "temperature": 2.0},
        "teacher": {"path": str(folder / "teacher"), "dtype": "float32", "partitioned": False},
    }
    if not (folder / "teacher").exists():
        teacher(folder / "teacher")
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return small_recipe(folder, **base)


def metrics_of(out: Path) -> list[dict[str, Any]]:
    """Values of the steps' lines."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["values"] | {"step": line["step"]} for line in lines if line["kind"] == "train"]


def forget(recipe: DistillRecipe) -> None:
    """Remove the run's output."""
    shutil.rmtree(recipe.out, ignore_errors=True)


def train(recipe: dict[str, Any]) -> int:
    """The whole phase on this rank."""
    from kit.distill.phase import distill

    return distill(DistillRecipe.parse(recipe, "the test")).steps

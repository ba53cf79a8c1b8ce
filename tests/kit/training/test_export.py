"""The exported folder is an ordinary checkpoint, whatever trained it: equal logits, clear errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.distill.recipe import DistillRecipe
from tests.kit.training.made import small_recipe
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

LORA = {"lora": {"rank": 3, "alpha": 9.0}}


def train(recipe: dict[str, Any], shard_bytes: int = 0) -> dict[str, Any]:
    """Train, and give the logits of the model in training beside what is exported."""
    import torch

    from kit.distill import phase
    from kit.training import export

    if shard_bytes:
        export.SHARD_BYTES = shard_bytes
    seen: dict[str, Any] = {}
    original = vars(phase)["start"]

    def started(*given: Any) -> Any:
        seen["started"] = original(*given)
        return seen["started"]

    vars(phase)["start"] = started
    outcome = phase.distill(DistillRecipe.parse(recipe, "the test"))
    model = seen["started"].model
    if recipe["parallel"]["engine"] != "torch":
        return {"steps": outcome.steps}
    model.eval()
    with torch.no_grad():
        return {"steps": outcome.steps, "logits": model(torch.tensor([IDS])).logits.tolist()}


IDS = [3, 50, 200, 7, 7, 120]


def logits_of(folder: Path, adapter: Path | None = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return model.eval()(torch.tensor([IDS])).logits


def recipe_of(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    base: dict[str, dict[str, Any]] = {
        "batch": {"max_steps": 3},
        "optimizer": {"lr": 1e-2, "warmup_ratio": 0.0},
        "evaluation": {"every": 0},
    }
    return small_recipe(folder, **(base | sections)).model_dump(mode="json")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_loads_with_equal_logits(tmp_path: Path, tied: bool) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, GenerationConfig

    student = make_tiny_checkpoint(
        tmp_path / "student", architecture="qwen2", hidden=32, heads=2, head_dim=16, seed=1
    )
    if not tied:
        untie(student)
    # What transformers loads with a word, and refuses to save.
    (student / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": 256}')
    made = launch(train, 1, recipe_of(tmp_path), 30_000).result
    folder = tmp_path / "run" / "model"
    torch.testing.assert_close(logits_of(folder), torch.tensor(made["logits"]), rtol=0, atol=0)
    assert not torch.allclose(logits_of(folder), logits_of(student), atol=1e-3)
    shards = sorted(folder.glob("model-*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = {name: path.name for path in shards for name in load_file(path)}
    assert len(shards) > 2
    assert index["weight_map"] == held
    assert ("lm_head.weight" in held) != tied
    size = sum(t.nbytes for path in shards for t in load_file(path).values())
    assert index["metadata"]["total_size"] == size
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] == tied
    assert config["use_cache"]
    # It ends a turn as it was taught, and still where it ended before.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(student).chat_template
    settings = GenerationConfig.from_pretrained(folder)
    assert settings.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>"), 256]
    assert settings.temperature == 0.6
    from submission.checkpoint import inspect

    inspect(folder)


def untie(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)


@pytest.mark.slow
def test_adapters_are_merged_as_peft_merges_them(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    student = make_tiny_checkpoint(
        tmp_path / "student", architecture="qwen2", hidden=32, heads=2, head_dim=16, seed=1
    )
    made = launch(train, 1, recipe_of(tmp_path, model=LORA)).result
    folder, adapter = tmp_path / "run" / "model", tmp_path / "run" / "model-adapter"
    expected = torch.tensor(made["logits"])
    torch.testing.assert_close(logits_of(folder), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(student, adapter), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits_of(student), expected, atol=1e-3)
    from peft import PeftModel

    base: Any = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    exported: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = merged.state_dict()
    for name, tensor in exported.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_partitioned_ranks_export_what_one_rank_does(tmp_path: Path, lora: bool) -> None:
    """But for rounding: the sums of gradients are made in another order."""
    from safetensors.torch import load_file

    smooth = {"lr": 1e-4, "eps": 1e-4, "warmup_ratio": 0.0}
    sections: dict[str, dict[str, Any]] = {"optimizer": smooth, "model": LORA if lora else {}}
    assert launch(train, 1, recipe_of(tmp_path, **sections)).result["steps"] == 3
    (tmp_path / "run").rename(tmp_path / "torch")
    three = {"engine": "deepspeed", "zero_stage": 3}
    assert launch(train, 2, recipe_of(tmp_path, parallel=three, **sections), 20_000).result["steps"] == 3
    expected = load_file(tmp_path / "torch" / "model" / "model.safetensors")
    shards = sorted((tmp_path / "run" / "model").glob("model-*.safetensors"))
    assert len(shards) > 1
    found = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert float((found[name] - tensor).abs().max()) < 1e-6, name
    if lora:
        name = "model-adapter/adapter_model.safetensors"
        ours, theirs = load_file(tmp_path / "run" / name), load_file(tmp_path / "torch" / name)
        assert ours.keys() == theirs.keys()
        assert all(float((ours[key] - theirs[key]).abs().max()) < 1e-6 for key in theirs)


# --- a disk that takes no more ---------------------------------------------------------------------------


def train_with_full_disk(recipe: dict[str, Any], limit: int) -> None:
    """No file may become larger than `limit` bytes once the export begins, on rank 0."""
    import os
    import resource

    from kit.distill.phase import distill
    from kit.training import phase

    export = vars(phase)["export"]

    def limited(*given: Any) -> None:
        if os.environ["RANK"] == "0":
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        export(*given)

    vars(phase)["export"] = limited
    distill(DistillRecipe.parse(recipe, "the test"))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "world_size"), [("torch", 1), ("deepspeed", 2)])
def test_a_full_disk_at_the_export(tmp_path: Path, engine: str, world_size: int) -> None:
    """An error on all ranks, soon; the checkpoints stand, and the next start has only the export to do."""
    recipe = recipe_of(tmp_path, parallel={"engine": engine})
    ended = launch(train_with_full_disk, world_size, recipe, 60_000, timeout=90.0)
    assert all(
        "ValueError: the model could not be written to" in error and "start again" in error
        for error in ended.errors
    ), ended.errors
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "tokens",
    ]
    assert launch(train, world_size, recipe).result["steps"] == 3
    logits_of(tmp_path / "run" / "model")


@pytest.mark.slow
def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").write_text("mine")
    (error,) = launch(train, 1, recipe).errors
    assert "could not be written to" in error and "is a file" in error
    assert (tmp_path / "run" / "model").read_text() == "mine"
    (tmp_path / "run" / "model").unlink()
    (tmp_path / "run" / ".model.tmp").write_text("left by somebody")
    shutil.rmtree(tmp_path / "run" / "model", ignore_errors=True)
    (error,) = launch(train, 1, recipe).errors
    assert "could not be written to" in error
    (tmp_path / "run" / ".model.tmp").unlink()
    assert launch(train, 1, recipe).result["steps"] == 3


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["input_layernorm"], ["no_such"]])
def test_targets_that_cannot_be_merged_are_refused_at_the_start(tmp_path: Path, targets: list[str]) -> None:
    from kit.training.model import add_lora, load_causal
    from kit.training.recipe import LoraSection, ModelSection

    student = make_tiny_checkpoint(tmp_path / "student", hidden=32, heads=1)
    model = load_causal(student, ModelSection.parse({"path": str(student), "dtype": "float32"}, "the test"))
    with pytest.raises(ValueError, match=r"model\.lora\.targets"):
        add_lora(model, LoraSection.parse({"targets": targets}, "the test"))

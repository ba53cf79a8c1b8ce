"""Shapes: parameter counts against transformers' own models and published totals, and refusals."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kit.training.estimate.shape import known_shapes, shape_from_config, shape_of
from tests.tiny import make_tiny_checkpoint

SIZES = {
    "vocab_size": 512,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}

PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/QwQ-32B": 32_763_876_352,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": 14_770_033_664,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": 32_763_876_352,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
}


@pytest.mark.parametrize(("name", "total"), PUBLISHED.items())
def test_known_shapes_have_their_published_number_of_parameters(name: str, total: int) -> None:
    assert shape_of(name).parameters == total


def test_every_known_size_is_checked_above() -> None:
    checked = {known_shapes()[name] for name in PUBLISHED}
    assert set(known_shapes().values()) == checked


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "head_dim": 32}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"num_key_value_heads": None}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("qwen3", {"head_dim": 24, "attention_bias": True, "tie_word_embeddings": True}),
    ],
)
def test_parameters_are_those_of_the_real_model(tmp_path: Path, family: str, extra: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**SIZES, **extra})
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of(str(tmp_path))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    block = model.model.layers[0]
    assert shape.block_parameters == sum(parameter.numel() for parameter in block.parameters())
    linear = {
        name.rpartition(".")[2]: (module.in_features, module.out_features)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert shape.linear == linear


def test_a_saved_checkpoint_has_its_weights_in_the_count(tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = make_tiny_checkpoint(tmp_path / "model", architecture="qwen2")
    with safe_open(folder / "model.safetensors", framework="np") as file:
        names = [name for name in file.keys() if "lm_head" not in name]  # noqa: SIM118  # no dict
        stored = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    assert shape_of(str(folder)).parameters == stored


def test_an_unknown_name_says_how_to_go_on() -> None:
    with pytest.raises(
        ValueError, match=r"someone/model: no such folder.*give its folder.*Qwen/Qwen2\.5-32B"
    ):
        shape_of("someone/model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "model_type is 'mixtral'; the estimate knows llama"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"intermediate_size": None}, "intermediate_size is None"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ],
)
def test_hostile_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape_from_config({"model_type": "qwen2", **SIZES, **change}, "here")


def test_unreadable_configurations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json cannot be read: No such file"):
        shape_of(str(tmp_path))
    for text, message in (("{", "is not JSON"), (json.dumps([1]), "is not a JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            shape_of(str(tmp_path))

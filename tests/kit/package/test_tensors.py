"""Headers of safetensors files, and configs of other models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kit.package.tensors import Tensor, check_config, read_header

CONFIG = {
    "hidden_size": 8,
    "vocab_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}


def shapes(prefix: str = "model.") -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        f"{prefix}embed_tokens.weight": (16, 8),
        f"{prefix}norm.weight": (8,),
    }
    for layer in range(2):
        found |= {
            f"{prefix}layers.{layer}.self_attn.q_proj.weight": (8, 8),
            f"{prefix}layers.{layer}.self_attn.k_proj.weight": (4, 8),
            f"{prefix}layers.{layer}.mlp.down_proj.weight": (8, 24),
        }
    return found


def check(config: dict[str, Any], found: dict[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    check_config(Path("m/config.json"), config, [Tensor(n, dtype, s, 0, 0) for n, s in found.items()])


def test_a_header_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"b": np.zeros((2, 3), np.float16), "a": np.zeros(4, np.float32)}, path, metadata={"k": "v"})
    header = read_header(path)
    assert header.tensors == (Tensor("a", "F32", (4,), 0, 16), Tensor("b", "F16", (2, 3), 16, 28))
    assert header.metadata == {"k": "v"}
    assert header.data_start == path.stat().st_size - 28


@pytest.mark.parametrize("keep", [0, 7, 8, 40, -1])
def test_a_file_that_was_cut_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(4, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole .*copy it again"):
        read_header(path)


@pytest.mark.parametrize("prefix", ["model.", "", "language_model.model.", "model.language_model."])
def test_a_models_own_config_fits(prefix: str) -> None:
    check(CONFIG, shapes(prefix))
    check({"text_config": CONFIG, "hidden_size": 99}, shapes(prefix))
    check({}, shapes(prefix))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 16),
        ("vocab_size", 17),
        ("num_hidden_layers", 3),
        ("num_hidden_layers", 1),
        ("intermediate_size", 32),
        ("head_dim", 8),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 2),
    ],
)
def test_a_config_of_another_size_is_refused_by_key(key: str, value: int) -> None:
    changed = {**CONFIG, "head_dim": 4, key: value}
    for config in (changed, {"text_config": changed}):
        with pytest.raises(ValueError, match=rf"m/config\.json .*{key}.* is .*from one checkpoint"):
            check(config, shapes())


def test_what_may_differ() -> None:
    padded = {**shapes(), "model.embed_tokens.weight": (64, 8)}
    check(CONFIG, padded)
    gated = {**shapes(), "model.layers.1.self_attn.q_proj.weight": (16, 8)}
    check(CONFIG, gated)
    wider_by_layer = {**shapes(), "model.layers.1.mlp.down_proj.weight": (8, 48)}
    check(CONFIG, wider_by_layer)
    predicting = {**shapes(), "model.layers.2.mlp.down_proj.weight": (8, 24)}
    check({**CONFIG, "num_nextn_predict_layers": 1}, predicting)
    # Packed 4-bit weights have shapes of their own.
    check(CONFIG, {name: (1, 2) for name in shapes() if "layers" in name}, dtype="U8")

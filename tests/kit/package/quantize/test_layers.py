"""Which tensors are layers to quantize, told from headers alone."""

from pathlib import Path

import numpy as np
import pytest

from kit.package.quantize.layers import Tensor, check_base, is_left_out, linear_layers, read_tensors
from tests.kit.package.quantize.made import LAYER, PLAIN, checkpoint


@pytest.mark.parametrize(
    ("module", "left"),
    [
        ("lm_head", True),
        ("model.embed_tokens", True),
        ("score", True),
        ("score.0", True),
        ("model.layers.3.mlp.gate", True),
        ("model.layers.3.mlp.shared_expert_gate", True),
        ("model.layers.3.input_layernorm", True),
        ("model.layers.3.mlp.gate_proj", False),
        ("model.layers.3.mlp.experts.7.gate_proj", False),
        ("model.layers.3.self_attn.q_proj", False),
        ("model.layers.3.self_attn.score_proj", False),
    ],
)
def test_what_stays_as_it_is(module: str, left: bool) -> None:
    assert is_left_out(module) is left


def test_tensors_are_read_from_the_header(tmp_path: Path) -> None:
    found = read_tensors(checkpoint(tmp_path / "m", PLAIN))
    assert set(found) == set(PLAIN)
    assert found[f"{LAYER}.weight"] == Tensor("model.safetensors", (4, 8), "F32", 128)


def test_matrices_but_the_embedding_are_layers(tmp_path: Path) -> None:
    tensors = {**PLAIN, "model.layers.0.mlp.experts.gate_up_proj": np.ones((2, 8, 4), np.float32)}
    layers = linear_layers(read_tensors(checkpoint(tmp_path / "m", tensors)))
    assert sorted(layers) == ["model.layers.0.mlp.experts.gate_up_proj", LAYER]


def test_a_quantized_model_is_not_quantized_again(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", PLAIN, quantization_config={"quant_method": "mxfp4"})
    with pytest.raises(ValueError, match=r"quantized already \(mxfp4\)"):
        check_base(folder)


def test_a_model_without_numbered_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no numbered layers"):
        check_base(checkpoint(tmp_path / "m", {"encoder.weight": np.ones((4, 8), np.float32)}))

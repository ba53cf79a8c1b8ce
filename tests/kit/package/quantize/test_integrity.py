"""Planted faults of a quantized checkpoint, each caught and named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.package.quantize.integrity import Layers, check_quantized
from tests.kit.package.quantize.made import INT8, LAYER, PLAIN, checkpoint

pytest.importorskip("torch")
SCALE = f"{LAYER}.weight_scale"
OTHER = "model.layers.1.mlp.up_proj"


def judge(tmp_path: Path, tensors: dict[str, Any], plain: dict[str, Any] = PLAIN, **config: Any) -> Layers:
    base = checkpoint(tmp_path / "base", plain)
    return check_quantized(base, checkpoint(tmp_path / "made", tensors, **config))


def test_a_sound_one_passes_and_says_what_was_left_out(tmp_path: Path) -> None:
    assert judge(tmp_path, INT8) == Layers(1, ("model.embed_tokens",), tied=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "no finite number"),
        (np.inf, "no finite number"),
        (0.0, "not above 0"),
        (-1.0, "not above 0"),
    ],
)
def test_a_bad_scale_is_named(tmp_path: Path, value: float, message: str) -> None:
    scales = np.ones((4, 1), np.float32)
    scales[2] = value
    with pytest.raises(ValueError, match=rf"{SCALE} holds .*{message}"):
        judge(tmp_path, {**INT8, SCALE: scales})


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    bad = np.ones((16, 8), np.float32)
    bad[3, 3] = np.nan
    with pytest.raises(ValueError, match=r"model\.embed_tokens\.weight holds"):
        judge(tmp_path, {**INT8, "model.embed_tokens.weight": bad})


def test_a_layer_that_was_left_out_is_named(tmp_path: Path) -> None:
    plain = {**PLAIN, f"{OTHER}.weight": np.ones((4, 8), np.float32)}
    with pytest.raises(ValueError, match=rf"1 layers have no scale \({OTHER}\)"):
        judge(tmp_path, {**INT8, f"{OTHER}.weight": plain[f"{OTHER}.weight"]}, plain)


def test_a_layer_that_is_lost_is_named(tmp_path: Path) -> None:
    plain = {**PLAIN, f"{OTHER}.weight": np.ones((4, 8), np.float32)}
    with pytest.raises(ValueError, match=OTHER):
        judge(tmp_path, INT8, plain)


def test_experts_in_one_stack_must_have_been_taken_apart(tmp_path: Path) -> None:
    stack = "model.layers.0.mlp.experts.down_proj"
    plain = {**PLAIN, stack: np.ones((2, 4, 8), np.float32)}
    with pytest.raises(ValueError, match=rf"still in full precision \({stack}\)"):
        judge(tmp_path, {**INT8, stack: plain[stack]}, plain)


def test_an_expert_by_itself_is_fine(tmp_path: Path) -> None:
    plain = {**PLAIN, "model.layers.0.mlp.experts.down_proj": np.ones((1, 4, 8), np.float32)}
    expert = "model.layers.0.mlp.experts.0.down_proj"
    made = {f"{expert}.weight": np.ones((4, 8), np.int8), f"{expert}.weight_scale": np.ones((4, 1), "f4")}
    assert judge(tmp_path, {**INT8, **made}, plain).quantized == 2


def test_a_head_that_is_no_longer_tied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was tied .* is tied now \(with a lm_head\.weight\)"):
        judge(tmp_path, {**INT8, "lm_head.weight": np.ones((16, 8), np.float32)})


def test_a_configuration_that_unties_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was tied to the embedding and is not tied now"):
        judge(tmp_path, INT8, tie_word_embeddings=False)

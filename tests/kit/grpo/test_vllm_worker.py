"""How weights are found among live parameters; on small modules laid out as vLLM lays out its own."""

from typing import Any

import pytest

from kit.grpo.checksum import Checksum, checksum
from kit.grpo.samplers.vllm_worker import live_parts, unfilled


def model(padding: int = 3, tied: bool = True) -> Any:
    """A vocabulary of 5, padded; fused q, k, v of 4, 2, 2 rows; an output matrix."""
    import torch

    whole, attention = torch.nn.Module(), torch.nn.Module()
    whole.embed = torch.nn.Embedding(5 + padding, 4)
    whole.embed.org_vocab_size = 5
    with torch.no_grad():
        whole.embed.weight[5:] = 0
    attention.qkv_proj = torch.nn.Linear(4, 8)
    attention.o_proj = torch.nn.Linear(4, 4, bias=False)
    whole.attention = attention
    whole.head = torch.nn.Linear(4, 5 + padding, bias=False)
    if tied:
        whole.head.weight = whole.embed.weight
    whole.packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    return whole


SHAPES = {
    "embed.weight": [5, 4],
    "attention.q_proj.weight": [4, 4],
    "attention.k_proj.weight": [2, 4],
    "attention.v_proj.weight": [2, 4],
    "attention.q_proj.bias": [4],
    "attention.k_proj.bias": [2],
    "attention.v_proj.bias": [2],
    "attention.o_proj.weight": [4, 4],
}


def test_fused_rows_are_cut_and_padding_is_left_off() -> None:
    import torch

    live = model()
    parts = live_parts(live, SHAPES)
    assert {name: list(part.shape) for name, part in parts.items()} == SHAPES
    assert torch.equal(parts["embed.weight"], live.embed.weight[:5])
    assert torch.equal(parts["attention.k_proj.weight"], live.attention.qkv_proj.weight[4:6])
    assert torch.equal(parts["attention.v_proj.bias"], live.attention.qkv_proj.bias[6:])
    assert unfilled(live, parts) == []
    together = sum((checksum(parts[f"attention.{name}_proj.weight"]) for name in "qkv"), Checksum())
    assert together == checksum(live.attention.qkv_proj.weight)


def test_a_tied_matrix_is_one_weight_under_either_name() -> None:
    live = model()
    for name in ("embed.weight", "head.weight"):
        shapes = {name if key == "embed.weight" else key: shape for key, shape in SHAPES.items()}
        assert unfilled(live, live_parts(live, shapes)) == []
    both = live_parts(live, SHAPES | {"head.weight": [5, 4]})
    assert checksum(both["head.weight"]) == checksum(both["embed.weight"])


@pytest.mark.parametrize(
    ("missing", "lost"),
    [
        ("attention.o_proj.weight", ["attention.o_proj.weight"]),
        ("attention.v_proj.bias", ["attention.qkv_proj.bias"]),
        ("embed.weight", ["embed.weight"]),
    ],
)
def test_parameters_that_nothing_fills_are_named(missing: str, lost: list[str]) -> None:
    live = model()
    shapes = {name: shape for name, shape in SHAPES.items() if name != missing}
    assert unfilled(live, live_parts(live, shapes)) == lost


def test_an_output_matrix_of_its_own_must_be_sent() -> None:
    live = model(padding=0, tied=False)
    assert unfilled(live, live_parts(live, SHAPES)) == ["head.weight"]


def test_a_weight_without_a_counterpart_is_a_key_error() -> None:
    for name in ("attention.x_proj.weight", "lone"):
        with pytest.raises(KeyError):
            live_parts(model(), SHAPES | {name: [4, 4]})

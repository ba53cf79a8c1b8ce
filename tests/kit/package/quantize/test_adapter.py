"""LoRA adapters are merged into a copy; the base is only read."""

import json
from pathlib import Path
from typing import Any

import pytest

from kit.package.quantize.adapter import check_adapter
from kit.package.quantize.layers import file_digests
from kit.package.quantize.prepare import merged_model
from kit.small import make_small_model

LAYER = "model.layers.0.mlp.up_proj"
RANK, ALPHA = 2, 6


def make_adapter(folder: Path, *, rows: int = 32, width: int = 32, layer: str = LAYER, **config: Any) -> Path:
    """An adapter of one layer, as PEFT writes it, with B = 1 and A = 0.01."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["up_proj"],
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {
        f"base_model.model.{layer}.lora_A.weight": torch.full((RANK, width), 0.01),
        f"base_model.model.{layer}.lora_B.weight": torch.ones(rows, RANK),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_small_model(
        tmp_path_factory.mktemp("base") / "base", hidden=32, layers=1, heads=1, intermediate=32, seed=0
    )
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.mark.slow
def test_the_copy_is_the_base_plus_the_product_and_the_base_is_untouched(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    names = tuple(path.name for path in base.iterdir())
    before = file_digests(base, names)
    adapter = make_adapter(tmp_path / "adapter")
    made, record = merged_model(base, adapter, lambda _: None, tmp_path / "cache")
    assert file_digests(base, names) == before
    old, new = (load_file(folder / "model.safetensors") for folder in (base, made))
    assert old.keys() == new.keys()
    for name in old:
        # alpha / r times B A: 3 times 2 * 0.01 in every place.
        gap = 0.06 if name == f"{LAYER}.weight" else 0.0
        assert new[name].dtype == old[name].dtype
        assert float((new[name] - old[name] - gap).abs().max()) < 1e-6, name
    for name in set(names) - {"model.safetensors"}:
        assert (made / name).read_bytes() == (base / name).read_bytes()
    assert set(record["adapter"]["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert record["base"]["files"]["model.safetensors"] == before["model.safetensors"]
    lines: list[str] = []
    assert merged_model(base, adapter, lines.append, tmp_path / "cache")[0] == made
    assert lines == [f"{made} stands, reused"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 31}, "does not go with"),
        ({"layer": "model.layers.7.mlp.up_proj"}, "no place for 2 of its tensors"),
        ({"target_modules": ["up_proj", "q_proj"]}, "misses 2 of its tensors"),
        ({"target_modules": ["nothing"]}, "does not go with"),
    ],
)
def test_an_adapter_of_another_model_leaves_nothing(
    base: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merged_model(base, make_adapter(tmp_path / "adapter", **wrong), lambda _: None, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_what_is_no_adapter_of_a_tied_model_is_refused_before_loading(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no adapter_config\.json"):
        check_adapter(base, base)
    with pytest.raises(ValueError, match="of the kind 'IA3'"):
        check_adapter(make_adapter(tmp_path / "a", peft_type="IA3"), base)
    with pytest.raises(ValueError, match="changes lm_head, and the head"):
        check_adapter(make_adapter(tmp_path / "b", target_modules=["lm_head"]), base)
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    (quantized / "config.json").write_text('{"quantization_config": {"quant_method": "mxfp4"}}')
    with pytest.raises(ValueError, match="is quantized, and a merge would"):
        check_adapter(tmp_path / "b", quantized)
    (tmp_path / "b" / "adapter_model.safetensors").rename(tmp_path / "b" / "adapter_model.bin")
    with pytest.raises(ValueError, match="a pickle"):
        check_adapter(tmp_path / "b", base)

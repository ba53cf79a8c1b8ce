"""Is a quantized checkpoint sound: every layer quantized that should be, by scales that are numbers?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.package.quantize.layers import Tensor, is_left_out, linear_layers, read_tensors
from submission.checkpoint import read_json

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_HEAD = "lm_head.weight"
_SIDE = ("_scale", "_zero_point", "_g_idx", "_shape", "_global_scale")
"""Ends of the names of what belongs to a quantized weight."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What of a checkpoint was quantized.

    Args:
        left_out: modules with a matrix that stays as it was, by intent.
        tied: whether the head is the embedding.
    """

    quantized: int
    left_out: tuple[str, ...]
    tied: bool


def check_quantized(base: Path, folder: Path) -> Layers:
    """Compare a quantized checkpoint with what it was made from; weights are read, one tensor at a time.

    Raises:
        ValueError: a layer was left out or lost, a scale is no positive number, a weight no number, or the
            head is no longer tied to the embedding; the message names the first such tensors.
    """
    before, after = read_tensors(base), read_tensors(folder)
    wanted = linear_layers(before)
    _check_coverage(wanted, after, folder)
    _check_values(after, folder)
    tied = _check_ties(base, folder, before, after)
    matrices = {name.removesuffix(".weight") for name, tensor in before.items() if len(tensor.shape) >= 2}
    quantized = sum(name.endswith(".weight_scale") for name in after)
    return Layers(quantized, tuple(sorted(matrices - set(wanted))), tied)


def _check_coverage(wanted: Mapping[str, Tensor], after: Mapping[str, Tensor], folder: Path) -> None:
    # A stack of experts' matrices comes out as one module an expert, under names of its own.
    missing = sorted(
        module
        for module, tensor in wanted.items()
        if len(tensor.shape) == 2 and f"{module}.weight_scale" not in after
    )
    left = sorted(
        name
        for name, tensor in after.items()
        if len(tensor.shape) >= 2
        and tensor.dtype in FLOATS
        and not name.endswith(_SIDE)
        and not is_left_out(name.removesuffix(".weight"))
    )
    for names, fault in ((missing, "have no scale"), (left, "are still in full precision")):
        if names:
            raise ValueError(
                f"quantized model {folder}: {len(names)} layers {fault} ({', '.join(names[:3])}), so the "
                "quantizer passed them by: choose another scheme, or give the layers' kind to the project"
            )


def _check_values(after: Mapping[str, Tensor], folder: Path) -> None:
    import torch
    from safetensors import safe_open

    faults = []
    for file in sorted({tensor.file for tensor in after.values()}):
        with safe_open(str(folder / file), framework="pt") as tensors:
            for name in sorted(name for name, tensor in after.items() if tensor.file == file):
                value = tensors.get_tensor(name)
                if not value.dtype.is_floating_point:
                    continue
                # Of 8-bit floats hardly anything is defined but conversion.
                wide = value.float() if value.element_size() == 1 else value
                if not bool(torch.isfinite(wide).all()):
                    faults.append(f"{name} holds what is no finite number")
                elif name.endswith("_scale") and not bool((wide > 0).all()):
                    faults.append(f"{name} holds a scale that is not above 0")
    if faults:
        raise ValueError(
            f"quantized model {folder}: {'; '.join(faults[:3])} ({len(faults)} tensors in all): a layer of "
            "the model is all zeros or overflows; look at these weights in the unquantized model"
        )


def _check_ties(base: Path, folder: Path, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    old, new = (_ties(read_json(place / "config.json")) for place in (base, folder))
    if old != new or (_HEAD in before) != (_HEAD in after):
        raise ValueError(
            f"quantized model {folder}: the head was {'tied' if old else 'not tied'} to the embedding and is "
            f"{'tied' if new else 'not tied'} now (with {'a' if _HEAD in after else 'no'} {_HEAD}), "
            "so the engine would load another model"
        )
    return old


def _ties(config: Mapping[str, Any]) -> bool:
    inner = config.get("text_config")
    source = inner if isinstance(inner, dict) and "tie_word_embeddings" not in config else config
    return bool(source.get("tie_word_embeddings", False))

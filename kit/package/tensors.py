"""What a checkpoint's safetensors files hold, and whether that is what its config says.

A config of another model of the same family passes every check of names and lengths, and fails when the
engine loads it; its sizes are compared with the tensors' here, from the headers alone.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PACKED = frozenset({"U8", "I8", "U32", "I32", "I64"})
"""Types of quantized weights, whose shapes say something else."""
_LAYER = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a safetensors header; `start` and `end` are bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors file's tensors in the order of their bytes, its metadata, and where its data begins."""

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Read a safetensors file's header.

    Raises:
        ValueError: the library finds the header or the file's length wrong.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # The library checks the header: lengths, types, offsets without gaps, and the file's size.
        with safe_open(path, framework="numpy"), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            content: dict[str, Any] = json.loads(file.read(size))
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file: {error}; it was cut short or damaged: copy it again"
        ) from None
    metadata = content.pop("__metadata__", {})
    tensors = [
        Tensor(name, item["dtype"], tuple(item["shape"]), *item["data_offsets"])
        for name, item in content.items()
    ]
    ordered = tuple(sorted(tensors, key=lambda tensor: (tensor.start, tensor.end, tensor.name)))
    return Header(ordered, metadata, 8 + size)


def check_config(config_path: Path, config: Mapping[str, Any], tensors: Iterable[Tensor]) -> None:
    """Compare a config's sizes with the tensors of all its files.

    Looked at, where config and checkpoint have them: width and vocabulary of the embedding, width of the last
    norm, number of layers, widths of the attention and of the feed-forward layers.

    Raises:
        ValueError: they are of two models; the message names the key, the tensor and the fix.
    """
    # A model of text and images keeps its language model's sizes apart.
    text = [config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)]
    sizes: Mapping[str, Any] = {**config, **text[0]} if text else config
    found = {tensor.name: tensor for tensor in tensors if tensor.dtype not in _PACKED}
    faults = [*_width_faults(sizes, found), *_layer_faults(sizes, found), *_inner_faults(sizes, found)]
    if faults:
        raise ValueError(
            f"{config_path} is not of these weights: {faults[0]}; take config and weights from one checkpoint"
        )


def _number(sizes: Mapping[str, Any], key: str) -> int | None:
    value = sizes.get(key)
    return value if type(value) is int and value > 0 else None


def _width_faults(sizes: Mapping[str, Any], found: Mapping[str, Tensor]) -> list[str]:
    hidden, vocabulary = _number(sizes, "hidden_size"), _number(sizes, "vocab_size")
    faults = []
    for name, tensor in found.items():
        if name.endswith("embed_tokens.weight") and len(tensor.shape) == 2:
            # An embedding may have more rows than tokens: it is padded to a round number.
            if vocabulary and tensor.shape[0] < vocabulary:
                faults.append(f"vocab_size is {vocabulary} and {_shown(tensor)}")
            if hidden and tensor.shape[1] != hidden:
                faults.append(f"hidden_size is {hidden} and {_shown(tensor)}")
        last_norm = re.fullmatch(r"(model\.)?(language_model\.)?(model\.)?norm\.weight", name)
        if last_norm and len(tensor.shape) == 1 and hidden and tensor.shape[0] != hidden:
            faults.append(f"hidden_size is {hidden} and {_shown(tensor)}")
    return faults


def _layer_faults(sizes: Mapping[str, Any], found: Mapping[str, Tensor]) -> list[str]:
    wanted = _number(sizes, "num_hidden_layers")
    numbers = {int(match[1]) for name in found if (match := _LAYER.match(name))}
    if not wanted or not numbers:
        return []
    # Layers that predict further tokens lie behind the model's own.
    most = wanted + (_number(sizes, "num_nextn_predict_layers") or 0)
    held = max(numbers) + 1
    if wanted <= held <= most:
        return []
    return [f"num_hidden_layers is {wanted} and the weights have {held} layers"]


def _inner_faults(sizes: Mapping[str, Any], found: Mapping[str, Tensor]) -> list[str]:
    """Layers may differ in width, so a size is wrong where no layer has it."""
    hidden, inner = _number(sizes, "hidden_size"), _number(sizes, "intermediate_size")
    heads, groups = _number(sizes, "num_attention_heads"), _number(sizes, "num_key_value_heads")
    head = _number(sizes, "head_dim") or (hidden // heads if hidden and heads else None)
    faults = []
    if inner:
        faults += _none_fits(found, "mlp.down_proj.weight", 1, [inner], f"intermediate_size is {inner}")
    if heads and head:
        # Gated attention has a gate as wide as the query.
        wanted = [heads * head, 2 * heads * head]
        message = f"num_attention_heads x head_dim is {heads} x {head}"
        faults += _none_fits(found, "self_attn.q_proj.weight", 0, wanted, message)
    if groups and head:
        message = f"num_key_value_heads x head_dim is {groups} x {head}"
        faults += _none_fits(found, "self_attn.k_proj.weight", 0, [groups * head], message)
    return faults


def _none_fits(
    found: Mapping[str, Tensor], ending: str, axis: int, wanted: Sequence[int], message: str
) -> list[str]:
    held = [
        tensor
        for name, tensor in found.items()
        if name.endswith(ending) and _LAYER.match(name) and len(tensor.shape) == 2
    ]
    if not held or any(tensor.shape[axis] in wanted for tensor in held):
        return []
    return [f"{message} and {_shown(held[0])}"]


def _shown(tensor: Tensor) -> str:
    return f"{tensor.name[:100]} is {' x '.join(map(str, tensor.shape))}"

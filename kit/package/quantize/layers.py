"""A checkpoint's tensors by name, shape and type, read from safetensors headers: no weight is loaded."""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.package.quantize.schemes import IGNORED
from submission.checkpoint import check_weights, read_json

_LENGTH = struct.Struct("<Q")
_LAYER = re.compile(r"\.layers\.\d+\.|\.h\.\d+\.|\.blocks\.\d+\.")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its file, shape, type as safetensors names it (`BF16`), and bytes."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    size: int


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint's weights by name; the files were checked to be whole.

    Raises:
        ValueError: there are no weights, or a file is damaged.
    """
    found: dict[str, Tensor] = {}
    for name in check_weights(folder):
        if name.endswith(".safetensors"):
            for tensor, entry in _header(folder / name).items():
                begin, end = entry["data_offsets"]
                found[tensor] = Tensor(name, tuple(entry["shape"]), str(entry["dtype"]), end - begin)
    return found


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def is_left_out(module: str) -> bool:
    """Whether a module stays as it is by intent; see `IGNORED`."""
    return any(re.match(pattern.removeprefix("re:"), module) for pattern in IGNORED)


def linear_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Modules whose weights are to be quantized: matrices, and stacks of experts' matrices, by module.

    A stack that has no `.weight` in its name (`experts.gate_up_proj`) goes under its own name.
    """
    found = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if len(tensor.shape) >= 2 and name != f"{module}.bias" and not is_left_out(module):
            found[module] = tensor
    return found


def check_base(folder: Path) -> None:
    """Refuse a checkpoint that is quantized already, or that has no layer to quantize.

    Raises:
        ValueError: naming what it is, or how it differs from what is known.
    """
    config = read_json(folder / "config.json")
    stated = config.get("quantization_config")
    if stated is not None or (folder / "hf_quant_config.json").exists():
        kind = stated.get("quant_method", "unknown") if isinstance(stated, dict) else "unknown"
        raise ValueError(
            f"model {folder} is quantized already ({kind}); a second rounding adds its loss to the first: "
            "take it as it is (--quantize none), or quantize the original"
        )
    layers = linear_layers(read_tensors(folder))
    if not any(_LAYER.search(f".{module}.") for module in layers):
        raise ValueError(
            f"model {folder} has no numbered layers with matrices among its weights "
            f"({', '.join(sorted(layers)[:3]) or 'none at all'}); only decoders are quantized"
        )


def file_digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each file of a folder."""
    digests = {}
    for name in names:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests

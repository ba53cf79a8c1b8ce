"""Keeps every file of a bundle below a size, for uploads that limit it.

Weights are cut between tensors into more safetensors shards with an index: engines read those from the
read-only mount as they are, so nothing has to be joined, copied or held twice at the contest. What cannot be
cut so, the wheels, is cut as bytes; `submission.joining` puts them together on the working disk for their
install alone. Both are pieces of the sources, so a bundle is still written in one pass and byte for byte the
same each time.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from kit.package.contents import Plan
from kit.package.copying import Item, Piece
from kit.package.notebook import json_bytes
from kit.package.tensors import Header, Tensor, read_header
from submission.checkpoint import INDEX, SINGLE
from submission.joining import part_name

LEAST = 1_000_000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_size(text: str) -> int:
    """Bytes of `--split-size`: a number with K, M or G (powers of ten), for example `2G` or `1.9G`.

    Raises:
        ValueError: it is none, or below a megabyte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < LEAST:
        raise ValueError(f"--split-size {text!r} is not a size of at least 1M, for example 1.9G")
    return size


def split(planned: Plan, limit: int) -> Plan:
    """The plan with no file over `limit` bytes; its manifest then lists the wheels to be joined.

    Raises:
        ValueError: a file is over it that can be cut in neither way, or a single tensor is.
    """
    items = list(planned.items)
    weights = {
        str(PurePosixPath(item.path).parent)
        for item in items
        if item.path.endswith(".safetensors") and item.size > limit
    }
    for folder in sorted(weights):
        items = _with_smaller_shards(items, folder, limit)
    joined: list[dict[str, Any]] = []
    kept: list[Item] = []
    for item in items:
        if item.size <= limit:
            kept.append(item)
            continue
        parts = _parts(item, limit)
        kept += parts
        joined.append({"path": item.path, "size": item.size, "sha256": item.sha256, "parts": len(parts)})
    manifest = {**planned.manifest, **({"joined": joined} if joined else {})}
    return replace(planned, items=tuple(sorted(kept, key=lambda item: item.path)), manifest=manifest)


def _parts(item: Item, limit: int) -> list[Item]:
    if not (item.path.startswith("wheels/") and isinstance(item.source, Path) and item.sha256):
        raise ValueError(
            f"{item.path} has {item.size} bytes, over --split-size {limit}, and is neither weights nor a "
            "wheel; give a larger --split-size"
        )
    starts = range(0, item.size, limit)
    if len(starts) > 999:
        raise ValueError(f"{item.path} would have {len(starts)} parts; give a larger --split-size")
    return [
        Item(
            part_name(item.path, number),
            (Piece(item.source, start, min(limit, item.size - start)),),
            min(limit, item.size - start),
        )
        for number, start in enumerate(starts)
    ]


def _with_smaller_shards(items: Sequence[Item], folder: str, limit: int) -> list[Item]:
    """All shards of a checkpoint, those over the limit cut, under new names with a new index."""
    index = next((item for item in items if item.path == f"{folder}/{INDEX}"), None)
    shards = _shards(items, folder, index)
    taken = {item.path for item in (*shards, *((index,) if index else ()))}
    cut = [piece for item in shards for piece in _cut(item, limit)]
    total_size = 0
    weight_map: dict[str, str] = {}
    made = []
    for number, (item, names, size) in enumerate(cut):
        name = f"model-{number + 1:05}-of-{len(cut):05}.safetensors"
        made.append(replace(item, path=f"{folder}/{name}"))
        weight_map |= dict.fromkeys(names, name)
        total_size += size
    # What else the old index says (`total_parameters`) stays true.
    metadata = {**_index_metadata(index), "total_size": total_size}
    content = json_bytes({"metadata": metadata, "weight_map": weight_map})
    made.append(Item(f"{folder}/{INDEX}", content, len(content)))
    return [item for item in items if item.path not in taken] + made


def _shards(items: Sequence[Item], folder: str, index: Item | None) -> list[Item]:
    """The weights that the engines read; another file over the limit cannot be cut."""
    here = [
        item
        for item in items
        if str(PurePosixPath(item.path).parent) == folder and item.path.endswith(".safetensors")
    ]
    if index is None:
        names = {f"{folder}/{SINGLE}"}
    else:
        assert isinstance(index.source, Path)
        weight_map = json.loads(index.source.read_bytes())["weight_map"]
        names = {f"{folder}/{name}" for name in weight_map.values()}
    return [item for item in here if item.path in names]


def _index_metadata(index: Item | None) -> Mapping[str, Any]:
    if index is None:
        return {}
    assert isinstance(index.source, Path)
    found = json.loads(index.source.read_bytes()).get("metadata")
    return found if isinstance(found, dict) else {}


def _cut(item: Item, limit: int) -> list[tuple[Item, list[str], int]]:
    """A file's shards, each with its tensors' names and bytes; the file itself where it is small enough."""
    assert isinstance(item.source, Path)
    header = read_header(item.source)
    if item.size <= limit:
        names = [tensor.name for tensor in header.tensors]
        return [(item, names, item.size - header.data_start)]
    groups: list[list[Tensor]] = [[]]
    for tensor in header.tensors:
        if _size([tensor], header) > limit:
            raise ValueError(
                f"{item.source}: the tensor {tensor.name[:100]} alone has {tensor.end - tensor.start} bytes, "
                f"over --split-size {limit}; a tensor is never cut, so give a larger --split-size"
            )
        if groups[-1] and _size([*groups[-1], tensor], header) > limit:
            groups.append([])
        groups[-1].append(tensor)
    return [_shard(item, item.source, header, group) for group in groups]


def _shard(item: Item, source: Path, header: Header, group: list[Tensor]) -> tuple[Item, list[str], int]:
    head = _head(group, header)
    begin, size = group[0].start, group[-1].end - group[0].start
    pieces = (head, Piece(source, header.data_start + begin, size))
    return Item(item.path, pieces, len(head) + size), [tensor.name for tensor in group], size


def _size(group: Sequence[Tensor], header: Header) -> int:
    return len(_head(group, header)) + group[-1].end - group[0].start


def _head(group: Sequence[Tensor], header: Header) -> bytes:
    """Length and header of a shard that holds these neighbours, whose order keeps each tensor aligned."""
    begin = group[0].start
    content: dict[str, Any] = {}
    if header.metadata:
        content["__metadata__"] = dict(sorted(header.metadata.items()))
    for tensor in group:
        content[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [tensor.start - begin, tensor.end - begin],
        }
    raw = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw

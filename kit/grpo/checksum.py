"""An exact checksum of weights that does not depend on how they are cut: into files, parts or fused tensors.

The elements' bit patterns b_1 ... b_n are read as unsigned integers, and two sums are kept modulo 2^64:

    total = sum b_i        moment = sum i b_i

(Fletcher 1982 with a larger modulus). One changed element changes `total`; two elements that trade places
change `moment`. Both follow from those of two parts: the checksum of rows stacked on rows is the sum of their
checksums, so vLLM's fused query, key and value rows can be compared with transformers' three tensors. It is
no protection from somebody who wants to deceive.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MODULUS = 1 << 64
_CHUNK = 1 << 20
"""Elements at a time: the integers of one chunk take 8 MiB, and as much again for their products."""


@dataclass(frozen=True)
class Checksum:
    """Of a sequence of elements; the default is that of none.

    Args:
        elements: n.
        total: sum of b_i modulo 2^64; does not depend on the elements' order.
        moment: sum of i b_i modulo 2^64, i from 1.
    """

    elements: int = 0
    total: int = 0
    moment: int = 0

    def __add__(self, other: "Checksum") -> "Checksum":
        """Of the elements of both, `other`'s after these."""
        return Checksum(
            self.elements + other.elements,
            (self.total + other.total) % _MODULUS,
            (self.moment + other.moment + self.elements * other.total) % _MODULUS,
        )

    def __str__(self) -> str:
        return f"{self.elements}-{self.total:016x}-{self.moment:016x}"

    @classmethod
    def parse(cls, text: str) -> "Checksum":
        """The checksum that `str` wrote."""
        elements, total, moment = text.split("-")
        return cls(int(elements), int(total, 16), int(moment, 16))


def checksum(tensor: "torch.Tensor") -> Checksum:
    """Of a tensor's elements in row-major order, on the device that holds it.

    Negative zero and the many NaNs differ from one another: what is compared is bits, not values.
    """
    import torch

    size = tensor.element_size()
    bits = tensor.detach().contiguous().reshape(-1)
    bits = bits.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size])
    places = torch.arange(1, min(_CHUNK, len(bits)) + 1, device=bits.device)
    # int64 wraps around, which is arithmetic modulo 2^64.
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    moment = torch.zeros_like(total)
    for start in range(0, len(bits), _CHUNK):
        piece = bits[start : start + _CHUNK].to(torch.int64)
        if size < 8:
            piece &= (1 << 8 * size) - 1  # the sign bit is one bit more
        subtotal = piece.sum()
        total += subtotal
        moment += start * subtotal + (piece * places[: len(piece)]).sum()
    return Checksum(len(bits), int(total) % _MODULUS, int(moment) % _MODULUS)


def combined(parts: Mapping[str, Checksum]) -> str:
    """One hexadecimal word (SHA-256) for tensors by name; their order does not matter, their names do."""
    lines = "".join(f"{name} {parts[name]}\n" for name in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()


def unordered(parts: Mapping[str, Checksum]) -> str:
    """Sum of all bit patterns: whatever the names, order and grouping; blind to values that trade places."""
    return f"{sum(part.total for part in parts.values()) % _MODULUS:016x}"

"""What weights can be quantized to, by which method, and what that asks of the machine."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Method = Literal["rounding", "gptq", "awq"]
GROUP_SIZES = (128, 64, 32)
"""Weights that share a scale in a row; those that the engine's kernels know, the smallest file first."""
IGNORED = (
    r"re:.*lm_head$",
    r"re:.*embed[^.]*$",
    r"re:^score(\..*)?$",
    r"re:.*\.(shared_expert_)?gate$",
    r"re:.*router$",
    r"re:.*norm$",
    r"re:.*conv1d$",
    r"re:^(.*\.)?visual\..*",
    r"re:^(.*\.)?vision_tower\..*",
)
"""Modules that stay as they are, as compressed-tensors writes patterns: few weights, and every answer depends
on them. `.gate` is the router of experts (`gate_proj` is quantized)."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to quantize.

    Args:
        preset: compressed-tensors' name of the format.
        method: how each weight is chosen: to the nearest value; by the calibration's second moments (GPTQ,
            Frantar et al. 2023, arXiv 2210.17323); with channels scaled by activations (AWQ, Lin et al. 2024,
            arXiv 2306.00978).
        grouped: scales per group of weights in a row, else one per row.
        engine_cpu: whether vLLM on a CPU without AVX-512 has the kernel.
    """

    name: str
    preset: str
    method: Method
    grouped: bool
    engine_cpu: bool

    @property
    def calibrated(self) -> bool:
        """Whether it looks at traces to choose the weights."""
        return self.method != "rounding"


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp8", "FP8_DYNAMIC", "rounding", grouped=False, engine_cpu=True),
        Scheme("int8", "W8A8", "gptq", grouped=False, engine_cpu=True),
        Scheme("int8-rtn", "W8A8", "rounding", grouped=False, engine_cpu=True),
        Scheme("w4a16", "W4A16", "gptq", grouped=True, engine_cpu=False),
        Scheme("w4a16-rtn", "W4A16", "rounding", grouped=True, engine_cpu=False),
        Scheme("awq", "W4A16_ASYM", "awq", grouped=True, engine_cpu=False),
    )
}
GRAMMAR = f"none, {', '.join(SCHEMES)}"


def find_scheme(name: str, *, gpu: bool) -> Scheme | None:
    """The scheme of a name; None for `none`.

    Args:
        gpu: whether this machine has one.

    Raises:
        ValueError: there is no such scheme, or it cannot be made here.
    """
    if name == "none":
        return None
    if name.lower().startswith("gguf"):
        raise ValueError(
            f"--quantize {name}: a bundle is served by vLLM, which has no fast kernels for GGUF and wants "
            "its tokenizer from elsewhere; choose fp8 (least loss), int8 or w4a16 (smallest)"
        )
    scheme = SCHEMES.get(name)
    if scheme is None:
        raise ValueError(f"--quantize {name!r} is none of {GRAMMAR}")
    if scheme.method == "awq" and not gpu:
        raise ValueError(
            "--quantize awq needs a GPU: llm-compressor's AWQ asks for an accelerator and this machine has "
            "none; choose w4a16 (GPTQ, the same size), or build where there is a GPU"
        )
    return scheme


def group_size(scheme: Scheme, widths: Iterable[int]) -> int | None:
    """The largest group that divides every layer's inputs; None for a scheme without groups.

    Args:
        widths: inputs of each layer that is quantized.

    Raises:
        ValueError: no size that the engine knows divides them all.
    """
    if not scheme.grouped:
        return None
    found = sorted(set(widths))
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in found):
            return size
    odd = next(width for width in found if width % GROUP_SIZES[-1])
    raise ValueError(
        f"--quantize {scheme.name}: no group of {', '.join(map(str, GROUP_SIZES))} weights divides layers of "
        f"{odd} inputs; choose fp8 or int8, which have one scale a row"
    )

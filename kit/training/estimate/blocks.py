"""Bytes a token that one block of a decoder holds while it trains, counted tensor by tensor.

For transformers' Llama, Qwen2 and Qwen3 blocks and PEFT's LoRA layers (Hu et al. 2021). There is no L x L
term, since attention is fused and keeps sequences apart. The tests hold it against real models. A base in NF4
cannot be run there: bitsandbytes' product keeps only its weight, as a frozen layer does, so by its source the
block and its adapters keep the same; its weight is dequantized for each product. Every block is counted
alike, though the first one keeps nothing below its lowest adapter.
"""

from dataclasses import dataclass

from kit.training.estimate.shape import LINEAR, Shape
from kit.training.recipe import LoraSection, ModelSection
from kit.training.varlen import head_fits

MULTIPROCESSORS = 132
"""Of an H100. FlashAttention adds up the gradients of queries in float32, for a fixed order in several parts:
as many as keep all multiprocessors busy, which is at most their number over the heads, and one."""
READ = {
    "q_proj": "norm before attention",
    "k_proj": "norm before attention",
    "v_proj": "norm before attention",
    "o_proj": "attention",
    "gate_proj": "norm before the feed-forward part",
    "up_proj": "norm before the feed-forward part",
    "down_proj": "product",
}
"""Whose output each linear layer reads: layers that read the same one can share it."""


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters as a block has them.

    Args:
        layers: names of the adapted layers.
        rank: inner width of an adapter.
        width: bytes of a number in an adapter, which casts its input to its own type.
        dropout: whether an adapter drops some of its inputs.
    """

    layers: tuple[str, ...]
    rank: int
    width: int
    dropout: bool


def adapted_layers(lora: LoraSection) -> tuple[str, ...]:
    """Linear layers of a block that have an adapter.

    Raises:
        ValueError: a target that is no linear layer of a block.
    """
    if not lora.targets or lora.targets == ("all-linear",):
        return LINEAR
    if unknown := sorted(set(lora.targets) - set(LINEAR)):
        raise ValueError(
            f"model.lora.targets has {', '.join(unknown)}; the estimate knows {', '.join(LINEAR)}"
        )
    return tuple(name for name in LINEAR if name in lora.targets)


def uses_varlen(model: ModelSection, head_size: int) -> bool:
    """Whether attention is one kernel for rows of many lengths: flash-attn's or, from Ampere on, torch's."""
    if model.attention in {"auto", "segments"}:
        return model.dtype == "bfloat16" and head_fits(head_size)
    return model.attention == "flash_attention_2"


def block_activation_bytes(shape: Shape, width: int, *, varlen: bool, packed: bool, frozen: bool) -> int:
    """Bytes a token that one block keeps for its backward pass, without those of adapters.

    Each RMS norm keeps its input in float32, the normalised input and the scaled one; attention keeps q, k,
    v, its output and the logsumexp of each head; the feed-forward part keeps four tensors of its inner width
    (gate, activated gate, up, their product). Of frozen weights, what only their gradient needs is not kept:
    the normalised and the scaled inputs, the joined outputs of attention, the product.

    Args:
        width: bytes of a number.
        varlen: attention is one kernel for rows of many lengths, which takes fewer key-value heads than query
            heads as they are. Otherwise k and v are repeated first.
        packed: several sequences a row: with one call of attention each, the outputs are joined into a copy.
        frozen: the block's own weights are not trained.
    """
    norms = 2 * shape.hidden * (4 + (0 if frozen else 2 * width))
    if shape.family == "qwen3":
        norms += (shape.query + shape.key_value) * (4 + (0 if frozen else width))
    key_value = 2 * (shape.key_value if varlen else shape.query)
    outputs = shape.query * (2 if packed and not varlen and not frozen else 1)
    attention = (shape.query + key_value + outputs) * width + 4 * shape.heads
    return norms + attention + (3 if frozen else 4) * shape.intermediate * width


def adapter_inputs(shape: Shape, width: int, adapters: Adapters, *, joined: bool) -> int:
    """Numbers a token that a block keeps as inputs of its adapters.

    Each adapter has its own copy where it casts (float32 adapters in a bfloat16 base) or drops. Otherwise
    those that read the same tensor share it, and attention keeps its output anyway.

    Args:
        width: bytes of a number in the block.
        joined: the outputs of attention are joined into a copy, which only the adapter keeps.
    """
    if adapters.width != width or adapters.dropout:
        return sum(shape.linear[name][0] for name in adapters.layers)
    kept = {READ[name]: shape.linear[name][0] for name in adapters.layers}
    if not joined:
        kept.pop("attention", None)
    return sum(kept.values())


def adapter_activation_bytes(
    shape: Shape, width: int, adapters: Adapters, *, joined: bool
) -> tuple[int, str]:
    """Bytes a token that the adapters of one block keep for their backward pass, and the sum in words.

    Besides its input, dropped in part or not, an adapter keeps what its first product gives, of the rank's
    width. Dropout keeps a mask of one byte a number. Their outputs are only added, which keeps nothing.
    """
    inputs = adapter_inputs(shape, width, adapters, joined=joined)
    ranks = len(adapters.layers) * adapters.rank
    each = adapters.width + (1 if adapters.dropout else 0)
    what = f"({adapters.width} + mask 1)" if adapters.dropout else f"{adapters.width}"
    how = f"({inputs:,} inputs x {what} + {len(adapters.layers)} x rank {adapters.rank} x {adapters.width})"
    return inputs * each + ranks * adapters.width, how


def gradient_bytes(shape: Shape, width: int, adapters: Adapters | None, *, varlen: bool) -> int:
    """Bytes a token that exist at once while one block is differentiated, beyond all that it keeps.

    What is freed on the way is taken off: the feed-forward part comes before attention.
    """
    inner, hidden = shape.intermediate, shape.hidden
    if adapters is None:
        widest, freed = inner * width, 4 * inner * width
    else:
        widest, freed = _beside_adapters(shape, width, adapters)
    widest += 2 * hidden * (width if adapters is None else adapters.width)
    if varlen:
        parts = (MULTIPROCESSORS + shape.heads) * shape.head_dim * 4
        widest = max(widest, parts + (4 * shape.query + 2 * hidden) * width - freed)
    return widest


def _beside_adapters(shape: Shape, width: int, adapters: Adapters) -> tuple[int, int]:
    """The most of inner width in the feed-forward part, and what of it is freed before attention."""
    inner, wide = shape.intermediate, adapters.width
    product = inner * (wide + adapters.dropout) if "down_proj" in adapters.layers else 0
    # The gradients of the product and of its two factors.
    moments = [3 * inner * width - product]
    if product:
        # The gradient of what the adapter of down read, or, going forward, the product and its cast, of which
        # only the dropped one is kept.
        moments.append(inner * (wide + (width if adapters.dropout and wide != width else 0)))
    if "up_proj" in adapters.layers:
        # What the adapter of up gives, and that scaled or added to up's own; the same of gradients.
        moments.append(2 * inner * wide - product)
    return max(moments), 3 * inner * width + product

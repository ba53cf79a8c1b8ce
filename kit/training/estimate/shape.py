"""The shape of a dense decoder (Llama, Qwen2, Qwen3): everything that its memory and FLOPs depend on."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

KNOWN = Path(__file__).resolve().parent.parent / "known_shapes.toml"

Family = Literal["llama", "qwen2", "qwen3"]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of one block, by transformers' names."""
LARGEST = 10**8
"""No size of a real model reaches this; a file that says so is broken."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; the family says which biases and norms it has.

    Args:
        family: `qwen2` has biases on q, k and v, `qwen3` norms on the heads of q and k; else as `llama`.
        attention_bias: biases on q, k, v and o, on top of the family's.
        mlp_bias: biases in the feed-forward part (llama only).
        tied: the head is the embedding.
    """

    family: Family
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def query(self) -> int:
        """Width of q, and of the attention's output."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of k, and of v."""
        return self.kv_heads * self.head_dim

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of a block."""
        hidden, inner = self.hidden, self.intermediate
        return {
            "q_proj": (hidden, self.query),
            "k_proj": (hidden, self.key_value),
            "v_proj": (hidden, self.key_value),
            "o_proj": (self.query, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def block_weights(self) -> int:
        """Weights of the linear layers of one block, without biases."""
        return sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def block_parameters(self) -> int:
        """All parameters of one block."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.family == "qwen3" else 0)
        biases = 0
        if self.family == "qwen2" or self.attention_bias:
            biases += self.query + 2 * self.key_value
        if self.attention_bias:
            biases += self.hidden
        if self.mlp_bias:
            biases += 2 * self.intermediate + self.hidden
        return self.block_weights + norms + biases

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and as many of the head."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, a tied head counted once."""
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.block_parameters + embeddings + self.hidden


def shape_of(place: str) -> Shape:
    """The shape of a checkpoint folder, or of a hub name whose shape is known here. Loads no weights.

    Raises:
        ValueError: neither a folder with a config.json that can be read nor a known name.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        path = folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ValueError(f"{path} is not JSON") from None
        if not isinstance(config, dict):
            raise ValueError(f"{path} is not a JSON object")
        return shape_from_config(config, str(path))
    known = known_shapes()
    if place in known:
        return known[place]
    raise ValueError(
        f"{place}: no such folder here, and no hub name whose shape is known. Download the checkpoint (its "
        "config.json is enough for an estimate) and give its folder, or name one of: " + ", ".join(known)
    )


@cache
def known_shapes() -> dict[str, Shape]:
    """Hub name to shape, from `known_shapes.toml`."""
    table = tomllib.loads(KNOWN.read_text(encoding="utf-8"))
    return {
        name: Shape(**{key: value for key, value in entry.items() if key != "names"})
        for entry in table["shape"]
        for name in entry["names"]
    }


def shape_from_config(config: Mapping[str, Any], place: str) -> Shape:
    """The shape that a transformers configuration describes; `place` is for messages.

    Raises:
        ValueError: another architecture than Llama, Qwen2 or Qwen3, or sizes that no model has.
    """
    family = config.get("model_type")
    if family not in ("llama", "qwen2", "qwen3"):
        raise ValueError(f"{place}: model_type is {family!r:.80}; the estimate knows llama, qwen2 and qwen3")

    def size(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < LARGEST:
            raise ValueError(f"{place}: {key} is {value!r:.80}; it must be a whole number above 0")
        return value

    def switch(key: str) -> bool:
        value = config.get(key, False)
        if not isinstance(value, bool):
            raise ValueError(f"{place}: {key} is {value!r:.80}; it must be true or false")
        return value

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    return Shape(
        family=family,
        vocab=size("vocab_size"),
        hidden=hidden,
        intermediate=size("intermediate_size"),
        layers=size("num_hidden_layers"),
        heads=heads,
        # What transformers takes where the file is silent.
        kv_heads=size("num_key_value_heads", heads if family == "llama" else 32),
        head_dim=size("head_dim", 128 if family == "qwen3" else hidden // heads),
        tied=switch("tie_word_embeddings"),
        attention_bias=family != "qwen2" and switch("attention_bias"),
        mlp_bias=family == "llama" and switch("mlp_bias"),
    )

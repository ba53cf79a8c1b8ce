"""The model that is trained: loaded, adapted, and wrapped so that one call gives the sum of a loss.

Works with any decoder-only transformers model whose logits are its last hidden states times its head's
weight; that this is so is checked once at the start, on real numbers.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.training.attention import DECODING, register
from kit.training.attention import NAME as SEGMENTS
from kit.training.batches import MicroBatch
from kit.training.head import TokenLoss, head_loss
from kit.training.kv_cache import make_cache
from kit.training.products import use_products
from kit.training.recipe import LoraSection, ModelSection
from submission.checkpoint import inspect

if TYPE_CHECKING:
    import torch


def find_model(name: str, what: str = "model") -> Path:
    """Folder of a checkpoint: `name` itself, or the hub's snapshot of that name.

    Raises:
        ValueError: the folder holds no whole, safe checkpoint, or the hub has no such name or is away.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        inspect(folder)
        return folder.resolve()
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ValueError(f"{what} {name!r} is neither a folder nor a hub name (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
        )
    except Exception as error:  # noqa: BLE001 - the library has many kinds, all of which mean: not here
        raise ValueError(
            f"{what} {name!r} is not a folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}): download it, and name its folder"
        ) from None
    inspect(Path(found))
    return Path(found)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint's folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - whatever the file makes the library raise
        raise ValueError(f"no tokenizer could be read from {folder}: {error}") from None


def load_config(folder: Path) -> Any:
    """The configuration of a checkpoint.

    Raises:
        ValueError: it is not one that transformers reads.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - whatever the file makes the library raise
        text = " ".join(str(error).split())
        raise ValueError(f"{folder / 'config.json'} cannot be used: {text[:300]}") from None


def load_causal(folder: Path, section: ModelSection, *, quantize: bool = False) -> Any:
    """A causal LM in the section's dtype and attention, on the CPU, or partitioned where ZeRO-3 is announced.

    Raises:
        ValueError: transformers cannot load it, weights are missing, or the attention does not fit it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    register()
    config = load_config(folder)
    extra: dict[str, Any] = {}
    if quantize:
        extra["quantization_config"] = _nf4(section.dtype)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, section.dtype),
            attn_implementation=pick_attention(section.attention, config),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **extra,
        )
    except (OSError, ImportError, RuntimeError, KeyError) as error:
        raise ValueError(f"transformers could not load {folder}: {error}") from error
    if missing := sorted(found["missing_keys"]):  # transformers would draw them at random
        raise ValueError(
            f"{folder} lacks {len(missing)} weights that its config.json asks for "
            f"({', '.join(missing[:3])}): obtain the checkpoint again"
        )
    model.config.use_cache = False
    return model


def pick_attention(name: str, config: Any) -> str:
    """The attention implementation for `name`; see `ModelSection.attention`.

    Raises:
        ValueError: flash-attn is asked for but missing, or `segments` for a model with sliding windows.
    """
    import importlib.util

    import torch

    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = kinds != {"full_attention"}
    flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    if name == "auto":
        return "flash_attention_2" if flash else "sdpa" if windowed else SEGMENTS
    if name == "flash_attention_2" and not flash:
        raise ValueError(
            "model.attention = 'flash_attention_2' needs CUDA and the package flash-attn; use 'auto'"
        )
    if name == SEGMENTS and windowed:
        raise ValueError(f"model.attention = 'segments' knows no {sorted(kinds)}: use 'sdpa' or 'auto'")
    return name


def _nf4(dtype: str) -> Any:
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("model.lora.quantize_base = 'nf4' needs CUDA and the package bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        bnb_4bit_quant_storage=getattr(torch, dtype),  # so that ZeRO-3 can partition it
    )


def add_lora(model: Any, section: LoraSection, *, task: str = "CAUSAL_LM", leave: Sequence[str] = ()) -> Any:
    """A PEFT model around `model`, of which only the adapters are trained, in at least float32.

    Args:
        task: PEFT's name of what the model does; empty for what it has no class for.
        leave: modules that are not adapted.

    Raises:
        ValueError: a target names no module of the model, or one that is no linear layer, or the head.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type=task or None,
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]
        lora_dropout=section.dropout,
        target_modules=list(section.targets) or "all-linear",
        exclude_modules=list(leave) or None,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"model.lora.targets {section.targets}: {error}") from None
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not hasattr(module, "base_layer"):
            continue
        if module is head or not isinstance(module.base_layer, torch.nn.Linear):
            raise ValueError(
                f"model.lora.targets {section.targets}: {name} is the head or not a linear layer: name "
                "others, or leave it empty for every linear layer but the head"
            )
    return adapted


def wrap(model: Any, *, adapted: Any = None, chunk: int = 0) -> Any:
    """The module that engines train: `module(micro, loss) -> (sum, other sums)`.

    Args:
        model: a causal LM of transformers, with or without LoRA layers.
        adapted: the PEFT model around it, kept for export.
        chunk: tokens whose logits exist at one time; 0 takes the device's default.
    """
    import torch

    use_products(model)

    class TrainedModel(torch.nn.Module):  # type: ignore[misc]
        """The decoder and its head under one root, as partitioned engines want it."""

        def __init__(self) -> None:
            super().__init__()
            self.causal = model
            # Not a submodule: its parameters are those of `causal`, under longer names.
            object.__setattr__(self, "adapted", adapted)

        def hidden(self, micro: MicroBatch) -> torch.Tensor:
            """[N, H] hidden states that predict the trained tokens."""
            states = self.causal.get_decoder()(
                input_ids=micro.input_ids,
                position_ids=micro.position_ids,
                use_cache=False,
                **micro.attention_arguments(),
            ).last_hidden_state
            return _at(states.flatten(0, 1), micro.positions)

        @contextmanager
        def decoding(self) -> Iterator[None]:
            """While entered, `forward` can decode: `segments` knows no cache, so another attention is set."""
            kind = self.causal.config._attn_implementation
            if kind == SEGMENTS:
                self.causal.set_attn_implementation(DECODING)
            try:
                yield
            finally:
                if kind == SEGMENTS:
                    self.causal.set_attn_implementation(kind)

        def next_logits(self, ids: Any, mask: Any, positions: Any, cache: Any) -> tuple[torch.Tensor, Any]:
            """[B, V] logits of the next token and the cache that goes on from here."""
            output = self.causal.get_decoder()(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=make_cache(self.causal.config) if cache is None else cache,
                use_cache=True,
            )
            head = self.causal.get_output_embeddings()
            return head(output.last_hidden_state[:, -1]), output.past_key_values

        def forward(
            self, micro: MicroBatch, loss: TokenLoss | None = None, decoding: tuple[Any, ...] | None = None
        ) -> Any:
            """(sum, other sums) of a loss; the hidden states themselves without one; or a step of `decoding`.

            One entrance for all three: partitioned engines gather weights around the root's forward pass.
            """
            if decoding is not None:
                return self.next_logits(*decoding)
            hidden = self.hidden(micro)
            if loss is None:
                return hidden
            head = self.causal.get_output_embeddings()
            size = chunk or (2048 if hidden.is_cuda else 256)
            return head_loss(hidden, head.weight, loss, size)

    return TrainedModel()


def _at(states: "torch.Tensor", positions: "torch.Tensor") -> "torch.Tensor":
    """[N, H] rows of [T, H] states; one may be wanted more than once, where completions share a prompt."""
    import torch

    # On CUDA index_select adds the gradients of such a row up in no fixed order; on a CPU indexing is slower
    # and less exact.
    return states[positions] if states.is_cuda else torch.index_select(states, 0, positions)


def check_architecture(config: Any) -> None:
    """Raise if such a model's logits are not its last hidden states times its head's weight.

    Tried on one layer of the model's own class with random weights and a small vocabulary: nothing is read.

    Raises:
        ValueError: the model scales, caps or shifts its logits, or has no plain head.
    """
    import torch
    from transformers import AutoModelForCausalLM

    small = copy.deepcopy(config)
    for name, value in (("num_hidden_layers", 1), ("vocab_size", 64), ("intermediate_size", 64)):
        if hasattr(small, name):
            setattr(small, name, value)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(
            small, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    head = model.get_output_embeddings()
    name = type(model).__name__
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise ValueError(f"the head of {name} is not a linear layer without bias: not supported")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        head.weight.mul_(100)  # a cap is not seen on small logits
        logits = model(input_ids=ids, use_cache=False).logits
        expected = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-6):
        raise ValueError(f"{name} does more than its head to make logits (a cap, a scale): not supported")


def token_count(tokenizer: Any) -> int:
    """Rows that a model needs for the tokenizer: its greatest id and one. What lies beyond is padding."""
    return 1 + int(max(tokenizer.get_vocab().values()))


def check_vocabulary(tokenizer: Any, config: Any, what: str) -> None:
    """Raise if the tokenizer can make an id that the model has no row for.

    Raises:
        ValueError: naming both sizes and the way out.
    """
    size = token_count(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"{what}: the tokenizer has {size} tokens but the model has {config.vocab_size} rows: they do "
            "not belong together; name the model's own tokenizer in model.tokenizer"
        )

"""The trained model as an ordinary Hugging Face folder: what vLLM, transformers and the packager load.

Weights are asked for one at a time, so a partitioned model is gathered layer by layer; rank 0 holds one shard
file's tensors at most (`SHARD_BYTES`, in CPU memory). With LoRA the adapters are merged into a copy as they
pass by, in float32, and the base is never touched; the adapter alone is written beside it.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.training.chat import Chat
from kit.training.engines.base import TrainEngine
from kit.training.ranks import Ranks
from submission.files import write_text

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 5_000_000_000
ADAPTER = "adapter"
_LORA = re.compile(r"(.*)\.lora_([AB])\.default\.weight$")
_BASE = ".base_layer."


def export(
    engine: TrainEngine,
    model: Any,
    adapted: Any,
    chat: Chat,
    folder: Path,
    ranks: Ranks,
    beside: Callable[[], Mapping[str, str]] | None = None,
) -> None:
    """Write `folder` in one rename, and with LoRA `folder`-adapter beside it. Collective.

    Args:
        model: the causal LM, for its configuration.
        adapted: the PEFT model around it, or None.
        chat: its tokenizer, and the token that it was trained to end an answer with.
        folder: replaced if it exists.
        beside: gives further files' texts by name; asked on rank 0 once all weights have passed by.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    adapters: dict[str, torch.Tensor] = {}
    weights = whole_weights(engine, model, adapted, adapters)

    def write() -> None:
        if not ranks.main:
            for _ in weights:  # every rank takes part in the gathers
                pass
            return
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            _write_shards(weights, temporary)
            _write_rest(model, chat, temporary)
            for name, text in (beside() if beside else {}).items():
                write_text(temporary / name, text)
            _replace(temporary, folder)
            if adapted is not None:
                _write_adapter(adapted, adapters, folder.with_name(f"{folder.name}-{ADAPTER}"))
        except Exception as problem:
            for _ in weights:  # the other ranks wait for this one in the gathers
                pass
            shutil.rmtree(temporary, ignore_errors=True)
            if not is_disk_fault(problem):
                raise
            raise ValueError(
                f"the model could not be written to {folder}: {problem}. The checkpoints stand: make room, "
                "and start again to export"
            ) from problem

    ranks.together(write)


def whole_weights(
    engine: TrainEngine, model: Any, adapted: Any, adapters: "dict[str, torch.Tensor] | None" = None
) -> "Iterator[tuple[str, torch.Tensor]]":
    """The model's weights under transformers' names, one at a time, LoRA merged into a copy. Collective.

    Args:
        adapters: is filled with the adapter's own weights as they pass by.
    """
    weights = _without_ties(engine.weights(), model)
    return weights if adapted is None else _merged(weights, adapted, {} if adapters is None else adapters)


def _without_ties(
    weights: "Iterator[tuple[str, torch.Tensor]]", model: Any
) -> "Iterator[tuple[str, torch.Tensor]]":
    """transformers re-ties on loading; `named_parameters` gives tied weights once already."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for name, tensor in weights:
        if name not in tied:
            yield name, tensor


def _merged(
    weights: "Iterator[tuple[str, torch.Tensor]]", adapted: Any, adapters: "dict[str, torch.Tensor]"
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Base weights with their adapters added, under the base model's names: W + (alpha / r) * B A.

    An adapted layer passes as base weight, A, B, in the order of its parameters.
    """
    import torch

    config = adapted.peft_config["default"]
    scale = config.lora_alpha / config.r
    waiting: tuple[str, torch.Tensor] | None = None
    factors: dict[str, torch.Tensor] = {}
    for name, tensor in weights:
        found = _LORA.match(name)
        if found is None:
            if _BASE in name and name.endswith(".weight"):
                assert waiting is None, "every adapted layer has its two factors"
                waiting = (name.replace(_BASE, "."), tensor.detach().to("cpu", copy=True))
            else:
                yield name.replace(_BASE, "."), tensor
            continue
        adapters[f"base_model.model.{found[1]}.lora_{found[2]}.weight"] = tensor.detach().to("cpu", copy=True)
        factors[found[2]] = tensor.detach().to("cpu", torch.float32, copy=True)
        if len(factors) == 2:
            assert waiting is not None
            base_name, base = waiting
            yield base_name, (base.float() + scale * (factors["B"] @ factors["A"])).to(base.dtype)
            waiting, factors = None, {}
    assert waiting is None and not factors, "every adapted layer has its two factors"


def is_disk_fault(problem: BaseException) -> bool:
    """Whether it comes from the system; safetensors and tokenizers say its number in their text only."""
    return isinstance(problem, OSError) or "(os error " in str(problem)


def _write_shards(weights: "Iterator[tuple[str, torch.Tensor]]", folder: Path) -> None:
    from safetensors.torch import save_file

    shards: list[dict[str, int]] = []
    held: dict[str, torch.Tensor] = {}
    size = 0

    def flush() -> None:
        nonlocal held, size
        if held:
            save_file(held, folder / f"shard-{len(shards)}.safetensors", metadata={"format": "pt"})
            shards.append({name: tensor.nbytes for name, tensor in held.items()})
        held, size = {}, 0

    for name, tensor in weights:
        if size and size + tensor.nbytes > SHARD_BYTES:
            flush()
        held[name] = tensor.to("cpu", copy=True).contiguous()
        size += tensor.nbytes
    flush()
    _name_shards(shards, folder)


def _name_shards(shards: list[dict[str, int]], folder: Path) -> None:
    if len(shards) == 1:
        (folder / "shard-0.safetensors").rename(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for index, names in enumerate(shards):
        final = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{index}.safetensors").rename(folder / final)
        where |= dict.fromkeys(names, final)
    total = sum(sum(names.values()) for names in shards)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1)
    write_text(folder / "model.safetensors.index.json", text)


def _write_rest(model: Any, chat: Chat, folder: Path) -> None:
    config = model.config.to_dict() | {"use_cache": True}
    config.pop("quantization_config", None)
    type(model.config).from_dict(config).save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        # By hand: transformers loads settings that it then refuses to save (a temperature without do_sample).
        settings = json.loads(model.generation_config.to_json_string())
        ends = settings.get("eos_token_id")
        known = [] if ends is None else ends if isinstance(ends, list) else [ends]
        # What a base model's own end is, is not what ends a turn: engines stop at either.
        settings["eos_token_id"] = [chat.end_id, *(end for end in known if end != chat.end_id)]
        write_text(folder / "generation_config.json", json.dumps(settings, indent=2) + "\n")
    chat.tokenizer.save_pretrained(folder)


def _write_adapter(adapted: Any, adapters: "dict[str, torch.Tensor]", folder: Path) -> None:
    from safetensors.torch import save_file

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    adapted.peft_config["default"].save_pretrained(temporary)
    save_file(adapters, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
    _replace(temporary, folder)


def _replace(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; a kill between the renames leaves the old one beside it."""
    for path in new.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

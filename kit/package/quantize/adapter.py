"""A LoRA adapter merged into a copy of its base model; the base is only read.

W' = W + (alpha / r) B A (Hu et al. 2021, arXiv 2106.09685), computed by PEFT in float32 and stored in the
base's own type: four bytes of memory a parameter.
"""

import shutil
from pathlib import Path
from typing import Any

from kit.quiet import quiet_deepspeed
from submission.checkpoint import inspect, read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
_EMBEDDINGS = ("lm_head", "embed_tokens", "wte")


def check_adapter(folder: Path, base: Path) -> None:
    """Refuse what is no LoRA adapter of this base, before anything is loaded.

    Raises:
        ValueError: a file is missing or of another kind, the base is quantized, or its head and embedding
            would no longer be one.
    """
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"--adapter {folder} has no {CONFIG}: give the folder that PEFT's save_pretrained wrote"
        )
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"--adapter {folder} has no {WEIGHTS} (a pickle, adapter_model.bin, is not read): save it again "
            "with safe_serialization=True"
        )
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or str(config.get("peft_type")).upper() != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ValueError(f"--adapter {folder} is of the kind {kind!r}; LoRA adapters are merged")
    touched = [*_names(config.get("target_modules")), *_names(config.get("modules_to_save"))]
    ends = {name.rsplit(".", 1)[-1] for name in touched}
    settings = read_json(base / "config.json")
    if settings.get("quantization_config"):
        raise ValueError(
            f"--adapter {folder}: {base} is quantized, and a merge would have to round once more: merge into "
            "the original, then --quantize"
        )
    if settings.get("tie_word_embeddings") and not ends.isdisjoint(_EMBEDDINGS):
        raise ValueError(
            f"--adapter {folder} changes {', '.join(sorted(ends & set(_EMBEDDINGS)))}, and the head of "
            f"{base} is its embedding: merging would change both; train the adapter on other layers"
        )


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(name) for name in value] if isinstance(value, list) else []


def merge_adapter(base: Path, adapter: Path, out: Path, *, prm: bool = False) -> None:
    """Write the merged model into the new folder `out`, with the base's tokenizer and licences.

    Args:
        prm: the base is a process reward model, loaded by its own class.

    Raises:
        ValueError: PEFT is missing, the adapter is of another base, or what it gives is not finite.
    """
    check_adapter(adapter, base)
    quiet_deepspeed()
    try:
        from peft import PeftModel
    except ImportError:
        raise ValueError("--adapter needs PEFT: install the extra 'train' of this project") from None
    import torch

    model, dtype = _load(base, prm=prm)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True, torch_device="cpu")
        _check_all_found(adapted, adapter)
        merged: Any = adapted.merge_and_unload(safe_merge=True)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"--adapter {adapter} does not go with {base}: {text[:400]}") from error
    merged = merged.to(dtype)
    if not all(bool(torch.isfinite(weight).all()) for weight in merged.parameters()):
        raise ValueError(f"--adapter {adapter}: merged into {base} some weights are not finite")
    merged.save_pretrained(out)
    _copy_rest(base, out, prm=prm)
    inspect(out, prm=prm)


def _copy_rest(base: Path, out: Path, *, prm: bool) -> None:
    """Everything of the base but its weights, as it is: its configuration, tokenizer, licences, card."""
    checkpoint = inspect(base, prm=prm)
    for name in (*checkpoint.files, *checkpoint.license_files, CARD):
        if not name.endswith((".safetensors", ".safetensors.index.json")) and (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    for path in out.iterdir():
        path.chmod(0o644)  # weights are written as 0600


def _load(base: Path, *, prm: bool) -> tuple[Any, Any]:
    """The base in float32 on the CPU, and the type that its weights are stored in."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

    from submission.prm.heads import read_prm

    kind: Any = AutoModelForCausalLM
    if prm:
        head = read_prm(base).head
        if head == "process_reward":
            raise ValueError(f"PRM {base}: adapters of a Qwen2ForProcessRewardModel are not merged")
        kind = AutoModelForTokenClassification if head == "token_classification" else kind
    config = AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    model = kind.from_pretrained(
        str(base),
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model, getattr(config, "dtype", None) or torch.float32


def _check_all_found(adapted: Any, adapter: Path) -> None:
    """Every tensor of the adapter must have found its layer, and every adapter layer its tensor."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    expected = set(get_peft_model_state_dict(adapted))
    with safe_open(str(adapter / WEIGHTS), framework="pt") as tensors:
        given = set(tensors.keys())
    for names, fault in ((given - expected, "has no place for"), (expected - given, "misses")):
        if names:
            raise ValueError(
                f"the model {fault} {len(names)} of its tensors ({', '.join(sorted(names)[:3])})"
            )

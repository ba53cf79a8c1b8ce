"""Runs in the quantizer's own environment: reads a JSON specification, writes a quantized checkpoint.

Run as a file (`python -I worker.py SPEC.json`): nothing of the project is importable here. What it has done
goes to standard output as one JSON object a line, `{"done": n, "total": n}` or at last `{"report": ...}`;
libraries' chatter goes to standard error.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]
PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


def main() -> None:
    """Do what the specification says; an exception ends it with its trace on standard error."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    started = time.monotonic()
    import torch

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if spec["method"] == "rounding":
        _round(spec, device)
    else:
        _calibrated(spec, tell)
    report = {
        "tools": {name: version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "seconds": round(time.monotonic() - started, 1),
    }
    tell({"report": report})


def _scheme(spec: dict[str, Any]) -> Any:
    from compressed_tensors.quantization import preset_name_to_scheme  # type: ignore[import-untyped]

    scheme = preset_name_to_scheme(spec["preset"], ["Linear"])
    if spec["group_size"]:
        scheme.weights.group_size = spec["group_size"]
    return scheme


def _round(spec: dict[str, Any], device: str) -> None:
    """File by file: needs no class for the model, and the memory of one shard."""
    from llmcompressor import model_free_ptq  # type: ignore[import-not-found]

    model_free_ptq(
        spec["model"], spec["out"], scheme=_scheme(spec), ignore=spec["ignore"], max_workers=1, device=device
    )


def _calibrated(spec: dict[str, Any], tell: Tell) -> None:
    """Layer by layer, each seeing what the quantized ones before it pass on."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from loguru import logger

    rows = json.loads(Path(spec["rows"]).read_text(encoding="utf-8"))
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    done = 0

    def count(message: Any) -> None:
        nonlocal done
        if "Quantizing 1 module(s)" in message:
            done += 1
            tell({"done": done, "total": spec["layers"]})

    logger.add(count, level="INFO")
    model = _load(spec)
    oneshot(
        model=model,
        recipe=_modifier(spec),
        dataset=data,
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, rows)),
        shuffle_calibration_samples=False,
        # One row at a time: rows differ in length, and padding would count as text.
        data_collator=lambda batch: {name: torch.tensor([batch[0][name]]) for name in batch[0]},
    )
    model.save_pretrained(spec["out"])


def _load(spec: dict[str, Any]) -> Any:
    import transformers

    loaders = {
        "causal": transformers.AutoModelForCausalLM,
        "token_classification": transformers.AutoModelForTokenClassification,
    }
    model, info = loaders[spec["kind"]].from_pretrained(
        spec["model"],
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{spec['model']} lacks weights: {', '.join(missing[:3])}")
    return model


def _modifier(spec: dict[str, Any]) -> Any:
    from llmcompressor.modifiers import quantization  # type: ignore[import-not-found]

    groups = {"group_0": _scheme(spec)}
    if spec["method"] == "gptq":
        return quantization.GPTQModifier(config_groups=groups, ignore=spec["ignore"])
    from llmcompressor.modifiers.transform.awq import AWQModifier  # type: ignore[import-not-found]

    return [AWQModifier(), quantization.QuantizationModifier(config_groups=groups, ignore=spec["ignore"])]


if __name__ == "__main__":
    main()

"""What both sides of a served engine must have in common, as short texts that name what differs."""

import hashlib
import json
from pathlib import Path

SAMPLES = 64
"""Places of a weight file that are looked at."""
_PIECE = 4_096
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def fingerprint(model: Path) -> dict[str, str]:
    """Digests of a checkpoint's configuration, tokenizer and weights, and its architecture by name.

    Weights are looked at in `SAMPLES` places a file (256 KiB), headers and sizes included: another checkpoint
    is told apart, one flipped bit is not; the first sync replaces them all.
    """
    config = (model / "config.json").read_bytes()
    weights = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        size = path.stat().st_size
        weights.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for part in range(SAMPLES):
                file.seek(part * max(0, size - _PIECE) // (SAMPLES - 1))
                weights.update(file.read(_PIECE))
    tokenizer = hashlib.sha256()
    for name in _TOKENIZER:
        if (model / name).is_file():
            tokenizer.update(f"{name}\n".encode() + (model / name).read_bytes())
    architectures = json.loads(config).get("architectures") or []
    return {
        "architecture": ", ".join(map(str, architectures)),
        "config.json": hashlib.sha256(config).hexdigest()[:16],
        "tokenizer": tokenizer.hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
    }

"""A small bundle's folder with its manifest, without building one."""

import hashlib
import json
from pathlib import Path
from typing import Any

SOLVER = {
    "scheme": "int8",
    "size": {"before": 4000, "after": 1500, "ratio": 0.375},
    "figures": {"perplexity_before": 1.5, "perplexity_after": 1.51, "agreement": 0.995, "loss": 0.007},
}
PRM = {
    "scheme": "fp8",
    "size": {"before": 4000, "after": 2000, "ratio": 0.5},
    "figures": {"mean_difference": 0.0123, "same_side": 0.98, "loss": 0.0123},
}
SIZES = {
    "model/config.json": 500,
    "model/model.safetensors": 1000,
    "prm/model.safetensors": 2000,
    "wheels/a-1-py3-none-any.whl.part-000": 300,
    "wheels/a-1-py3-none-any.whl.part-001": 300,
    "wheels/b-1-py3-none-any.whl": 400,
    "contest.toml": 10,
}


def write_bundle(folder: Path, **more: Any) -> Path:
    """A bundle of `SIZES`; `more` keys of its manifest."""
    files = []
    for name, size in SIZES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        files.append({"path": name, "size": size, "sha256": hashlib.sha256(b"x" * size).hexdigest()})
    manifest = {"format": "aimo-bundle", "version": 1, "target": "py311-cpu", **more, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_rehearsal(bundle: Path, **more: Any) -> Path:
    """The record of a rehearsal of it; `more` keys."""
    record = {
        "manifest": hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest(),
        "network": "cut off (network namespace)",
        "install_seconds": 31.5,
        "served_seconds": 1.25,
        "ready_seconds": 9.0,
        "memory_mib": 2048,
        "steps": [{"name": "verify the bundle", "seconds": 0.1, "outcome": "7 files as built"}],
        **more,
    }
    path = bundle.with_name(f"{bundle.name}.rehearsal.json")
    path.write_text(json.dumps(record))
    return path

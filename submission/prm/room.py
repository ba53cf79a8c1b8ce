"""A GPU's memory, divided between the solver's engine and a process reward model that lies beside it.

vLLM takes its share at each start and fails where less is free. The PRM comes after the engine, but an
engine that is started anew finds the PRM in place: both shares must fit from the beginning. With `prm.swap`
they take turns, and each has nearly all.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from submission.machine import GIB, Gpu, find_gpus
from submission.settings import ContestSettings

log = logging.getLogger(__name__)

WHOLE = 0.97
"""Of the memory; the rest is the driver's, and a context of each process."""
LARGEST = 0.5
"""A PRM that needs more is left out: solving comes first."""
WEIGHTS = 1.1
WORK_GIB = 3.0
"""Beside the weights: hidden states of a batch, or a small cache of vLLM."""


def room_for(settings: ContestSettings, prm_bytes: int, gib: float) -> ContestSettings:
    """Settings under which engine and PRM fit into a GPU of `gib` side by side.

    Args:
        prm_bytes: of the PRM's weights, in the type that they are stored in.

    Raises:
        ValueError: the PRM needs more than half of the GPU.
    """
    if settings.prm.swap or settings.engine.kind != "vllm":
        return settings
    prm = settings.prm
    needed = (prm_bytes / GIB * WEIGHTS + WORK_GIB) / gib
    if prm.engine == "vllm":
        needed = prm.gpu_memory_utilization or max(prm.share, needed)
    if needed > LARGEST:
        raise ValueError(
            f"the PRM needs {needed:.0%} of the GPU's {gib:.0f} GiB beside the solver's engine, more than "
            f"{LARGEST:.0%}: let them take turns (prm.swap = true, prm.engine = 'vllm') or take a smaller PRM"
        )
    share = min(settings.engine.gpu_memory_utilization, WHOLE - needed)
    changes: dict[str, object] = {
        "engine": settings.engine.model_copy(update={"gpu_memory_utilization": round(share, 4)})
    }
    if prm.engine == "vllm":
        changes["prm"] = prm.model_copy(update={"gpu_memory_utilization": round(needed, 4)})
    return settings.model_copy(update=changes)


def make_room(settings: ContestSettings, prm: Path | None, gpus: Sequence[Gpu] | None) -> ContestSettings:
    """`room_for` on this machine's smallest GPU; the settings themselves without a PRM or without a GPU.

    Raises:
        ValueError: the PRM needs more than half of the GPU.
    """
    if prm is None or not gpus:
        return settings
    size = sum(path.stat().st_size for path in prm.glob("*.safetensors"))
    return room_for(settings, size, min(gpu.gib for gpu in gpus))


def side_by_side(
    settings: ContestSettings, prm: Path | None, on_fault: Callable[[str, str], None]
) -> tuple[ContestSettings, Path | None]:
    """Settings and PRM to play with on this machine; None where the PRM does not fit (`on_fault` hears)."""
    if prm is None or settings.prm.swap or settings.engine.kind != "vllm":
        return settings, prm
    try:
        # torch is not asked: it would be imported for it, and the driver's own program knows.
        return make_room(settings, prm, find_gpus(ask_torch=False)[0]), prm
    except Exception as error:
        log.exception("no room for the PRM")
        on_fault("PRM left out", str(error))
        return settings, None

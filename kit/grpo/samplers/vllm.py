"""Completions drawn by the contest's own engine, so that what is trained is what will run.

Rank 0 runs vLLM; weights reach its processes through files in a private folder (`FileCarrier`). What is
compared after a sync, and how, is said in `kit.grpo.samplers.base` and `compare`. On a CPU the engine holds
its weights twice: as parameters, which are compared, and as vLLM packs them for its kernels.
"""

from pathlib import Path

from kit.grpo.recipe import ToolSection
from kit.grpo.samplers.base import EngineSampler
from kit.grpo.samplers.carrying import FileCarrier, weights_size
from kit.grpo.samplers.host import LocalHost
from kit.training.ranks import Ranks
from submission.settings import EngineSettings


class VllmSampler(EngineSampler):
    """vLLM in processes of its own, started here; see `kit.grpo.rollout.Sampler`.

    Before the first `sync` it holds the weights of the model's folder; after one that failed it draws nothing
    until another has succeeded.

    Args:
        model: the checkpoint's folder.
        settings: of the engine, as in the contest.
        ranks: who runs the engine (rank 0), and who is told.
        sync_timeout: seconds for each answer of the engine during a sync, and for a sign of life while it
            draws. The process group's own timeout must be longer: the other ranks wait in it.
        directory: where weights pass through; None chooses (`WeightsFolder`).
        sleep: leave the engine's GPU memory to the trainer between calls (vLLM's sleep, level 1: weights go
            to CPU memory, the key-value cache is dropped). Ignored where the platform has no such mode.
        tools: lets completions run code, in a sandbox of rank 0.

    Raises:
        EngineError: the engine could not start, or cannot take over weights.
    """

    def __init__(
        self,
        model: Path,
        settings: EngineSettings,
        ranks: Ranks,
        *,
        sync_timeout: float = 600.0,
        directory: Path | None = None,
        sleep: bool = False,
        tools: ToolSection | None = None,
    ) -> None:
        super().__init__(ranks, sync_timeout)

        def start() -> None:
            host = LocalHost(model, settings, "rank 0", sleep=sleep)
            self._hosts = [host]
            # Before the engine: what its sandbox starts is no part of it.
            host.equip(tools)
            self._running().run(host.start())
            self._carrier = FileCarrier(directory, weights_size(model))

        self._open(start)

"""A process with a sampler, to be killed from outside: `python -m tests.kit.grpo.serving CHECKPOINT`."""

import sys
import time
from pathlib import Path

from kit.grpo.samplers.vllm import VllmSampler
from kit.training.ranks import Ranks
from submission.settings import EngineSettings

SETTINGS = EngineSettings(max_model_len=900, max_num_seqs=16, cpu_kv_cache_gib=1, dtype="float32")


def alone() -> Ranks:
    """One process on the CPU."""
    import torch

    return Ranks(0, 1, 0, torch.device("cpu"))


if __name__ == "__main__":
    sys.stdout.write("starting\n")
    sys.stdout.flush()
    sampler = VllmSampler(Path(sys.argv[1]), SETTINGS, alone())
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    time.sleep(600)

"""Switches that keep hubs, tokenizers and telemetry off the network.

Call `go_offline()` before anything imports transformers, vllm or a hub client: they read their switches
at import. The values are forced, since a variable left over from training would open the network again.
"""

import os

SWITCHES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_MODELSCOPE": "False",
    "WANDB_MODE": "offline",
    # No network either way, but this one forks warnings and deadlocks after a fork.
    "TOKENIZERS_PARALLELISM": "false",
}


def go_offline() -> None:
    """Force every switch in this process and, through the environment, in its children."""
    os.environ.update(SWITCHES)

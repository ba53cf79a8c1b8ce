"""Keeping libraries from writing where a program's own output goes."""

import os


def quiet_deepspeed() -> None:
    """Call before importing transformers: it imports DeepSpeed, which guesses its device aloud on stdout."""
    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

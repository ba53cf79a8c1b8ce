"""Skips this folder's tests where there is no CUDA device."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device on this machine")

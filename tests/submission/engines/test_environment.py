"""What vLLM is told before it is imported."""

import importlib.util
import os

import pytest

from submission.engines.vllm_engine import prepare_environment
from submission.settings import EngineSettings

SAMPLER = "VLLM_USE_FLASHINFER_SAMPLER"


@pytest.mark.parametrize("compiled", [True, False])
def test_flashinfers_sampler_only_where_nothing_has_to_be_compiled(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """Without FlashInfer, vLLM 0.32 does not start on a GPU unless it is told not to look for it."""
    monkeypatch.setattr(os, "environ", {})
    found = importlib.util.find_spec("json")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: found if compiled and name == "flashinfer_jit_cache" else None,
    )
    prepare_environment(EngineSettings(enforce_eager=False))
    assert os.environ.get(SAMPLER) == (None if compiled else "0")


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {SAMPLER: "1"})
    prepare_environment(EngineSettings(enforce_eager=False))
    assert os.environ[SAMPLER] == "1"

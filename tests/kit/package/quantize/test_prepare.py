"""Wishes are judged before anything is touched, and what was done is shown."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kit.package.quantize.prepare import Prepared, Wish, prepare, table

NOWHERE = Path("no-such-model")
REPORT: dict[str, Any] = {
    "scheme": "int8",
    "preset": "W8A8",
    "method": "gptq",
    "size": {"before": 200, "after": 110, "ratio": 0.55},
    "figures": {
        "tokens": 1000,
        "perplexity_before": 2.0,
        "perplexity_after": 2.04,
        "agreement": 0.985,
        "kl": 0.0012,
        "loss": 0.02,
    },
    "max_loss": 0.05,
    "trace_files": [{"name": "traces.jsonl", "sha256": "0"}],
    "calibration": {"traces": 256, "tokens": 9000},
    "layers": {"quantized": 14, "left_out": ["lm_head"], "tied": False},
    "load_check": {
        "engine": "vllm 0.32.0",
        "where": "a CPU",
        "why": "",
        "dtype": "auto",
        "difference": 0.001,
    },
}


def said(record: dict[str, Any]) -> str:
    output = io.StringIO()
    Console(width=250, file=output).print(table(record))
    return output.getvalue()


def test_without_a_wish_nothing_is_even_opened() -> None:
    assert prepare(Wish(), NOWHERE, None, lambda _: None) == Prepared(NOWHERE, None, {})


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(max_loss=-0.1), "must be at least 0"),
        (Wish(max_loss=float("nan")), "must be at least 0"),
        (Wish(quantize_prm="fp8"), "without --prm"),
        (Wish(traces=(Path("t.jsonl"),)), "nothing is quantized"),
        (Wish(quantize="int3"), "is none of"),
        (Wish(calibration_count=10), "too few"),
        (Wish(adapter=NOWHERE), "no adapter_config"),
        (Wish(quantize="fp8", traces=(Path("t.jsonl"),)), "is not a folder"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_first(wish: Wish, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(wish, NOWHERE, None, lambda _: None)


def test_the_table_says_all_that_was_measured() -> None:
    text = said({"solver": REPORT})
    for part in (
        "int8 (W8A8, gptq)",
        "0.55 of what it was",
        "perplexity 2 -> 2.04, the same next token at 98.5% of 1,000, KL 0.0012",
        "0.02 (at most 0.05)",
        "256 traces, 9,000 tokens, of traces.jsonl",
        "14 quantized; as they were: lm_head",
        "vllm 0.32.0 on a CPU, 0.001 from transformers",
    ):
        assert part in text


def test_the_table_says_that_transformers_was_all_and_why() -> None:
    checked = {
        "engine": "transformers 5.19.0",
        "where": "a CPU",
        "why": "no kernel",
        "dtype": "auto",
        "difference": None,
    }
    assert "transformers 5.19.0 on a CPU only: no kernel" in said({"prm": {**REPORT, "load_check": checked}})


def test_an_adapter_alone_is_shown_too() -> None:
    record: dict[str, Any] = {"adapter": {"adapter": {"name": "tuned"}}}
    assert "adapter tuned" in said(record)
    assert "adapter tuned" in said({**record, "solver": REPORT, "prm": REPORT})

"""The benchmark of a swap: nothing is printed as a figure where there is no GPU."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import prm_swap


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {"engine sleeps": [9.0, 2.0, 3.0], "engine wakes": [1.0, 1.5, 1.0]}
    prm_swap.show({"gpu": "A GPU", "weights_gib": {"model": 60.0, "prm": 14.0}, "seconds": seconds})
    shown = [line.replace("\u2502", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["engine", "sleeps", "9.00", "3.00", "9.00"] in shown
    assert ["all", "10.00", "4.00", "10.00"] in shown


@pytest.mark.slow
def test_a_cpu_has_no_swap_to_measure(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    if prm_swap.can_sleep():
        pytest.skip("there is a GPU here")
    out = tmp_path / "figures.json"
    asked = ["--model", str(tmp_path), "--prm", str(tmp_path), "--json", str(out)]
    result = CliRunner().invoke(prm_swap.app, asked)
    assert result.exit_code == 0 and "ignores sleep mode" in result.output
    assert not out.exists() and "seconds" not in result.output.lower()

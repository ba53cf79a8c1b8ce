"""`python -m benchmarks.peers`: a peer in an environment made by pip, beside one that cannot be had."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.peers import __main__ as command
from benchmarks.peers import environments
from benchmarks.peers.comparisons import COMPARISONS
from benchmarks.peers.environments import ENVIRONMENTS, Environment


def test_an_unknown_peer_is_refused_before_anything_runs() -> None:
    result = CliRunner().invoke(command.app, ["--only", "jupiter"])
    assert str(result.exception) == (
        "no peer 'jupiter'; there are: math_verify, trl, vllm, transformers, jupyter, coreutils"
    )


def index_is_reachable() -> bool:
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    probe += ["--retries", "0", "--dest", "/dev/null/x", "six"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return "No matching distribution" not in done.stderr


@pytest.mark.slow
def test_what_cannot_be_installed_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not index_is_reachable():
        pytest.skip("no package index can be reached from here")
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "made")
    monkeypatch.setattr(command, "FOLDER", tmp_path / "made")
    # A version that does not exist, refused by pip without a download.
    broken = Environment("jupyter", ("jupyter-client==0.0.0.1",))
    monkeypatch.setitem(ENVIRONMENTS, "jupyter", broken)
    monkeypatch.setitem(
        COMPARISONS, "math_verify", replace(COMPARISONS["math_verify"], quick=("--limit", "4"))
    )
    monkeypatch.setenv("AIMO_SHARED", str(tmp_path))  # the corpora that are generated only
    out = tmp_path / "figures.json"
    arguments = ["--quick", "--only", "jupyter", "--only", "math_verify", "--json", str(out)]
    result = CliRunner().invoke(command.app, arguments)
    assert result.exit_code == 1
    assert "jupyter: not measured: the environment 'jupyter' could not be installed" in result.output
    peers = json.loads(out.read_text())["peers"]
    assert peers["jupyter"]["rows"] == []
    assert peers["math_verify"]["error"] == ""
    assert peers["math_verify"]["versions"] == {"math-verify": "0.9.0"}
    (row,) = peers["math_verify"]["rows"]
    assert row["same"] == "0 of 4 verdicts differ; right 2, 2 of 2; false 0, 0"
    assert row["least"] <= row["ratio"] <= row["most"]
    # Whatever else is on the machine, the peer has its own packages only.
    packages = (tmp_path / "made" / "math_verify").glob("lib/*/site-packages/*.dist-info")
    assert {path.name.partition("-")[0] for path in packages} == {
        "antlr4_python3_runtime",
        "latex2sympy2_extended",
        "math_verify",
        "mpmath",
        "sympy",
    }

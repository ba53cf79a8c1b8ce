"""A peer's side as a process: what it is given, what it answers, how it fails."""

import sys
from pathlib import Path

import pytest

from benchmarks.peers.process import open_peer, peer_environment
from benchmarks.peers.scripts.serve import versions

PYTHON = Path(sys.executable)


def test_a_peer_sees_nothing_of_ours_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PATH", "/usr/bin")
    made = peer_environment(Path("/peers/trl/bin/python"), {"OMP_NUM_THREADS": "1"})
    assert "PYTHONPATH" not in made
    assert made["PATH"] == "/peers/trl/bin:/usr/bin"
    assert (made["HF_HUB_OFFLINE"], made["OMP_NUM_THREADS"]) == ("1", "1")


def test_a_missing_interpreter_is_told_with_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"python does not exist; `python -m benchmarks.peers install`"),
        open_peer(tmp_path / "python", "checks", {}),
    ):
        pass


def test_a_side_that_fails_says_why() -> None:
    with (
        pytest.raises(ValueError, match=r"(?s)side 'nothing' ended with code 1:.*nothing\.py"),
        open_peer(PYTHON, "nothing", {}),
    ):
        pass


def test_versions_are_of_what_is_installed() -> None:
    found = versions(("pytest", "no-such-distribution"))
    assert found == {"pytest": pytest.__version__}


@pytest.mark.slow
def test_a_side_answers_in_order_and_dies_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"completion": "It is \\\\boxed{7}.", "gold": "7"}\n{"completion": "\\\\boxed{8}", "gold": "7"}\n'
    )
    with open_peer(PYTHON, "checks", {}) as peer:
        assert set(peer.versions) == {"math-verify", "latex2sympy2-extended", "sympy"}
        assert peer.ask({"pairs": str(path)}) == 2
        reply = peer.ask({"start": 0, "step": 1})
        assert reply["equal"] == [True, False]
        assert 0 < reply["seconds"] < 10
        assert peer.ask({"start": 1, "step": 2})["equal"] == [False]
        with pytest.raises(ValueError, match=r"(?s)ended with code 1:.*KeyError: 'step'"):
            peer.ask({"start": 0})
        with pytest.raises(ValueError, match="ended with code 1"):
            peer.ask({"start": 0, "step": 1})

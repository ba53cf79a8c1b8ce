"""The peers' sides against ours, in our own environment: the same inputs and results, real times."""

import sys
from pathlib import Path

import pytest

from benchmarks.package import BUILD, VERIFY, ratios_of
from benchmarks.peers.process import open_peer
from benchmarks.peers.scripts.majority import majority
from benchmarks.prm_speed import GAP_LIMIT, Group, make_checkpoint, measure, peer_settings
from benchmarks.sandbox import BLOCK, measure_fresh, measure_warm, of_all, ratios
from tests.tiny import make_tiny_checkpoint


def test_the_majority_of_the_last_boxes() -> None:
    texts = [r"\boxed{1} no, \boxed{2}", r"\boxed{1,000}", r"\boxed{ 2 }", "none", r"\boxed{x}", r"\boxed{7"]
    assert majority(texts) == 2
    assert majority([r"\boxed{-5}", r"\boxed{4}"]) == -5  # the first of equals
    assert majority(["none"]) is None


def test_ratios_of_the_sandbox_are_of_each_turns_medians() -> None:
    turns = [{"ours": [1.0, 2.0, 9.0], "kernel": [8.0, 10.0, 12.0]}, {"ours": [4.0], "kernel": [6.0]}]
    assert ratios(turns) == [5.0, 1.5]
    assert of_all(turns) == {"ours": [1.0, 2.0, 9.0, 4.0], "kernel": [8.0, 10.0, 12.0, 6.0]}


def test_ratios_of_the_packager_by_hand() -> None:
    times = {
        "cp -r": [1.0, 2.0, 1.0],
        "sha256sum of the copy": [4.0, 4.0, 3.0],
        "build": [5.0, 9.0, 6.0],
        "sha256sum of the bundle": [4.0, 4.0, 5.0],
        "verify": [1.0, 2.0, 1.0],
    }
    build, verify = ratios_of(times)
    assert (build["name"], build["ratio"], build["each"]) == (BUILD, 6 / 5, [1.0, 1.5, 1.5])
    assert (verify["name"], verify["ratio"], verify["each"]) == (VERIFY, 1 / 4, [0.25, 0.5, 0.2])


@pytest.mark.slow
def test_both_sides_give_the_same_step_scores(tmp_path: Path) -> None:
    folder = make_checkpoint(make_tiny_checkpoint(tmp_path / "model"), tmp_path / "prm")
    groups = [Group("1 + 1?", [["One.", "Two."], ["One.", "Three.", "So 2."]]), Group("2?", [["a", "b"]])]
    with open_peer(Path(sys.executable), "cards", peer_settings(folder)) as peer:
        figures = measure(folder, {"next step": groups}, peer)["next step"]
    assert figures["gap"] < GAP_LIMIT
    assert len(figures["ratios"]) == 2
    assert figures["least_ratio"] == min(figures["ratios"]) > 0
    assert set(peer.versions) == {"transformers", "torch"}


@pytest.mark.slow
def test_a_kernel_and_the_sandbox_take_turns() -> None:
    with open_peer(Path(sys.executable), "kernel", {}) as peer:
        warm, fresh = measure_warm(BLOCK + 2, peer), measure_fresh(2, 1, peer)
    assert [len(times) for turn in warm for times in turn.values()] == [BLOCK, BLOCK, 2, 2]
    assert [[len(times) for times in turn.values()] for turn in fresh] == [[2, 1]]
    assert all(time > 0 for times in of_all([*warm, *fresh]).values() for time in times)
    # A kernel's start cannot be had in a call's time.
    assert min(ratios(fresh)) > 1

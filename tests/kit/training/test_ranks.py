"""What the ranks agree on, alone and as several processes."""

import os
from pathlib import Path
from typing import Any

import pytest

from kit.training.ranks import Ranks, join, leave
from tests.kit.training.workers import launch


def agree(_: str) -> dict[str, Any]:
    """On every rank: sums, the greatest, a text of each rank, and an error of rank 1 alone."""
    ranks = join(60.0)

    def work() -> int:
        if ranks.rank == 1:
            raise ValueError("rank 1 saw \N{SNOWMAN}")
        return 1

    said = {
        "sum": ranks.sum([1.0, float(ranks.rank)]),
        "sums": ranks.sums({"b": 1.0, "a": float(ranks.rank)}),
        "most": ranks.most(-float(ranks.rank)),
        "texts": [ranks.share(f"text {ranks.rank} \N{SNOWMAN}", source) for source in range(2)],
        "empty": ranks.share("" if ranks.main else "not this", 0),
        "alone": ranks.together(lambda: ranks.rank),
        "error": "",
    }
    try:
        ranks.together(work)
    except ValueError as error:
        said["error"] = str(error)
    leave()
    return said


@pytest.mark.slow
def test_two_ranks() -> None:
    ended = launch(agree, 2, "")
    assert ended.codes == [0, 0], ended.errors
    for rank, said in enumerate(ended.results):
        assert said["sum"] == [2.0, 1.0]
        assert said["sums"] == {"a": 1.0, "b": 2.0}
        assert said["most"] == 0.0
        assert said["texts"] == ["text 0 \N{SNOWMAN}", "text 1 \N{SNOWMAN}"]
        assert said["empty"] == ""
        assert said["alone"] == rank
        assert said["error"] == "rank 1 saw \N{SNOWMAN}"


def test_one_process_needs_no_messages() -> None:
    import torch

    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    assert ranks.sum([1.5, 2.0]) == [1.5, 2.0]
    assert ranks.most(3.0) == 3.0
    assert ranks.share("text") == "text"
    with pytest.raises(ValueError, match="mine"):
        ranks.together(lambda: (_ for _ in ()).throw(ValueError("mine")))


def joined(_: str) -> str:
    """What `join` makes of one process alone; it must leave the environment as it was."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    ranks = join(30.0)
    left = {name for name in ("RANK", "WORLD_SIZE", "MASTER_PORT") if name in os.environ}
    leave()
    return f"rank {ranks.rank} of {ranks.world_size}, left {sorted(left)}"


@pytest.mark.slow
def test_a_process_alone_leaves_the_environment_as_it_was() -> None:
    assert launch(joined, 1, "").result == "rank 0 of 1, left []"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"),
        (
            {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "WORLD_SIZE='two' in the environment is not a number",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK=2 is not below WORLD_SIZE=2",
        ),
    ],
)
def test_the_environment_is_checked(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{message}"):
        join(30.0)


def test_leaving_twice_is_harmless(tmp_path: Path) -> None:
    leave()
    leave()
    assert list(tmp_path.iterdir()) == []

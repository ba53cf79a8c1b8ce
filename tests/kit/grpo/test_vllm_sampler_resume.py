"""A run whose real engine draws ahead while it trains is killed in the middle, and goes on."""

import secrets
import signal
from pathlib import Path

import pytest

from kit.training.checkpoint_files import steps_in
from tests.kit.grpo.made import grpo_recipe
from tests.kit.grpo.test_resume import killed, left_alive
from tests.kit.training.workers import launch

pytestmark = pytest.mark.slow


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "rollouts").glob("step-*.parquet"))}


def test_killed_while_the_engine_draws_ahead(tmp_path: Path) -> None:
    """Before the update of the third of four steps: two checkpoints stand, and the third step's table."""
    engine = {"max_model_len": 96, "max_num_seqs": 12, "cpu_kv_cache_gib": 1}
    recipe = grpo_recipe(
        tmp_path,
        rollout={"sampler": "vllm", "overlap": True, "engine": engine, "sync_timeout": 120.0},
        checkpoint={"every": 1, "asynchronous": False},
    )
    out, mark = tmp_path / "run", secrets.token_hex(8)
    ended = launch(killed, 1, recipe.model_dump(mode="json"), mark, (2, "before update 0", 0))
    assert ended.codes == [-signal.SIGKILL], ended.errors
    assert left_alive(mark) == []
    assert steps_in(out / "checkpoints")[-1] == 2
    before = tables(out)
    assert {"step-00000000.parquet", "step-00000001.parquet", "step-00000002.parquet"} <= before.keys()
    again = launch(killed, 1, recipe.model_dump(mode="json"), mark)
    assert again.result["steps"] == 4
    assert left_alive(mark) == []
    after = tables(out)
    assert len(after) == 4
    # What was drawn is not drawn again, and what was not drawn is.
    assert {name: after[name] for name in before} == before
    assert steps_in(out / "checkpoints")[-1] == 4

from pathlib import Path

import pytest
from typer.testing import CliRunner

from kit.prm.plan import print_plan, scorer_memory
from kit.prm.recipe import PrmRecipe
from kit.train import app
from kit.training.estimate.memory import Cluster
from kit.training.estimate.shape import shape_of

RECIPE = Path("kit/recipes/prm_qwen7b.toml")


def names(head: str) -> set[str]:
    recipe = PrmRecipe.load(RECIPE, [f"head.kind={head}"])
    return {item.name for item in scorer_memory(recipe, shape_of(recipe.model.path), Cluster(16)).gpu}


def test_only_logprob_makes_logits() -> None:
    assert {"logits chunk", "gradient of the head"} <= names("logprob")
    for head in ("token_classification", "process_reward"):
        assert {"logits chunk", "gradient of the head"}.isdisjoint(names(head))
        assert "classifier, its gradient and optimizer" in names(head)


def test_the_layer_is_counted_whole() -> None:
    """3584^2 + 3584 + 2 * 3584 + 2 parameters of 2 + 2 + 4 + 8 bytes on one GPU."""
    recipe = PrmRecipe.load(RECIPE, ["parallel.zero_stage=2"])
    held = scorer_memory(recipe, shape_of(recipe.model.path), Cluster(16))
    (item,) = [one for one in held.gpu if one.name.startswith("classifier")]
    assert item.bytes == (3584 * 3584 + 3584 + 2 * 3584 + 2) * 16


def test_dry_run_prints_and_trains_nothing(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["prm", str(RECIPE), f"out={tmp_path / 'run'}", "--dry-run"])
    assert found.exit_code == 0, found.output
    assert "process_reward" in found.output
    assert "3,125" in found.output  # 400,000 rows in batches of 128
    assert not (tmp_path / "run").exists()


def test_what_cannot_fit_is_refused() -> None:
    small = ["assume.gpu_memory_gb=4", "parallel.zero_stage=2"]
    with pytest.raises(ValueError, match="What would fit"):
        print_plan(PrmRecipe.load(RECIPE, small))


def test_lengths_that_are_not_known() -> None:
    with pytest.raises(ValueError, match=r"needs assume\.mean_tokens"):
        print_plan(PrmRecipe.load(RECIPE, ["assume.mean_tokens=0"]))
    with pytest.raises(ValueError, match="the rows' lengths are not known"):
        print_plan(PrmRecipe.load(RECIPE, ["assume.rows=0"]))

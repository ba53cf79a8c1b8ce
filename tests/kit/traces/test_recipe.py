"""A run's settings: what is refused before a model is loaded, and whose folder it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.traces.recipe import TraceRecipe, claim, fingerprint, identity, load_recipe, resolved
from tests.kit.traces.made import make_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no teacher: give --teacher"),
        ({"teacher": "x"}, "no dataset: give --dataset"),
        ({"teacher": "x", "dataset": "x", "samples": 0}, "samples"),
        ({"teacher": "x", "dataset": "x", "keep": 0}, "keep"),
        ({"teacher": "x", "dataset": "x", "select": "longest"}, "'all', 'shortest' or 'diverse'"),
        ({"teacher": "x", "dataset": "x", "temperature": -1.0}, "temperature"),
        ({"teacher": "x", "dataset": "x", "user_prompt": "Solve."}, "problem"),
        ({"teacher": "x", "dataset": "x", "top_k_temperatures": [1, 1]}, "name one twice"),
        ({"teacher": "x", "dataset": "x", "engine": {"kind": "replay"}}, "replay"),
        ({"teacher": "x", "dataset": "x", "smaples": 3}, "did you mean 'samples'"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(None, options)


def test_options_go_over_the_file_and_overrides_over_options(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('teacher = "t"\ndataset = "d"\nsamples = 2\nseed = 1\n[engine]\nmax_num_seqs = 3\n')
    prompt = 'Ein "Satz"\nmit \\boxed{} und \u4e2d {problem} \U0001f600'
    recipe = load_recipe(
        path,
        {"samples": 5, "user_prompt": prompt, "engine": {"kind": "transformers"}},
        ["seed=7", "dataset=0070"],
    )
    assert (recipe.samples, recipe.seed, recipe.user_prompt) == (5, 7, prompt)
    assert (recipe.engine.kind, recipe.engine.max_num_seqs) == ("transformers", 3)


def test_how_many_are_kept_by_default() -> None:
    kept = {}
    for select in ("all", "shortest", "diverse"):
        kept[select] = TraceRecipe(teacher=Path("t"), dataset="d", select=select).kept
    assert kept == {"all": None, "shortest": 1, "diverse": 2}
    assert TraceRecipe(teacher=Path("t"), dataset="d", keep=3).kept == 3


def test_top_k_must_fit_the_teacher(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--top-k 5000 is more than the 279 tokens"):
        resolved(TraceRecipe(teacher=teacher, dataset="d", top_k=5000))
    large = tmp_path / "large"
    shutil.copytree(teacher, large)
    config = json.loads((large / "config.json").read_text())
    (large / "config.json").write_text(json.dumps({**config, "vocab_size": 262_208}))
    with pytest.raises(ValueError, match="262208 tokens, over 262144"):
        resolved(TraceRecipe(teacher=large, dataset="d", top_k=64))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolved(TraceRecipe(teacher=tmp_path, dataset="d"))


def test_a_copy_is_the_same_teacher_and_another_is_not(teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == fingerprint(teacher)
    assert fingerprint(make_teacher(tmp_path / "other", seed=1)) != fingerprint(teacher)


def test_a_folder_belongs_to_one_run(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = TraceRecipe(teacher=teacher, dataset="d")
    claim(out, identity(recipe), write=False)
    assert not out.exists()
    claim(out, identity(recipe))
    # More samples, another choice, other log-probabilities, other machines: still the same samples.
    same = recipe.model_copy(update={"samples": 9, "select": "diverse", "top_k": 3, "data_parallel": 8})
    claim(out, identity(same))
    other = recipe.model_copy(update={"temperature": 0.5, "seed": 3})
    with pytest.raises(
        ValueError, match=r"seed is '0' there and '3' here; temperature is '1.0' there and '0.5' here"
    ):
        claim(out, identity(other))


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is not empty and holds no trace run"):
        claim(tmp_path, {"format": 1})
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(ValueError, match="not valid JSON"):
        claim(tmp_path, {"format": 1})

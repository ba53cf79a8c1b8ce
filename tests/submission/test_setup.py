import shutil
from pathlib import Path

import pytest

from submission.setup import resolve
from tests.kit.package.made import make_bundle, make_checkpoint
from tests.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    return make_bundle(folder / "bundle", make_checkpoint(folder / "model"))


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """Each test's own, to be damaged."""
    return shutil.copytree(built, tmp_path / "bundle")


def test_a_stray_file_is_noted_and_harms_nothing(bundle: Path) -> None:
    (bundle / ".DS_Store").touch()
    setup = resolve(bundle, ["engine.kind=transformers"])
    assert any(".DS_Store" in note for note in setup.notes)


def test_a_damaged_bundle_is_refused_at_commit_time_and_noted_in_the_rerun(bundle: Path) -> None:
    (bundle / "model" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"model/tokenizer\.json"):
        resolve(bundle, ["engine.kind=transformers"])
    setup = resolve(bundle, ["engine.kind=transformers"], strict=False)
    assert any("model/tokenizer.json" in note for note in setup.notes)


@pytest.mark.parametrize("config", ['{"architectures": {"a": 1}}', '{"architectures": 5}', "5", "{"])
def test_a_bad_prm_costs_the_ties_not_the_rerun(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    (tmp_path / "prm").mkdir()
    (tmp_path / "prm" / "config.json").write_text(config)
    monkeypatch.setenv("PRM_MODEL_PATH", str(tmp_path / "prm"))
    with pytest.raises(ValueError, match=r"(?i)prm"):
        resolve(bundle, ["engine.kind=transformers"])
    setup = resolve(bundle, ["engine.kind=transformers"], strict=False)
    assert setup.prm is None and any("No PRM" in note for note in setup.notes)


def test_other_weights_at_the_same_place_are_another_contest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_checkpoint(tmp_path / "m")
    monkeypatch.setenv("MATH_MODEL_PATH", str(model))
    before = resolve(None, ["engine.kind=transformers"]).digest
    assert resolve(None, ["engine.kind=transformers"]).digest == before
    make_tiny_checkpoint(model, seed=1)
    assert resolve(None, ["engine.kind=transformers"]).digest != before

"""A draft model goes along only where its tokens are the solver's."""

from pathlib import Path

import pytest

from kit.package.quantize.draft import check_draft
from kit.small import make_small_model
from submission.checkpoint import Checkpoint, inspect
from tests.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def solver(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("solver") / "m"
    return inspect(make_small_model(folder, hidden=64, layers=2, heads=2, intermediate=128, seed=0))


def small(folder: Path, layers: int = 1) -> Path:
    return make_small_model(folder, hidden=32, layers=layers, heads=1, intermediate=32, seed=0)


@pytest.mark.slow
def test_a_smaller_model_of_the_same_vocabulary_passes(solver: Checkpoint, tmp_path: Path) -> None:
    assert check_draft(small(tmp_path / "d"), solver).folder == tmp_path / "d"


@pytest.mark.slow
def test_one_that_is_not_smaller_is_refused(solver: Checkpoint) -> None:
    with pytest.raises(ValueError, match="not smaller"):
        check_draft(solver.folder, solver)


@pytest.mark.slow
def test_another_vocabulary_is_refused(solver: Checkpoint, tmp_path: Path) -> None:
    other = make_tiny_checkpoint(tmp_path / "t", hidden=32, layers=1, heads=1)
    with pytest.raises(ValueError, match="259 rows of vocabulary and the solver 354"):
        check_draft(other, solver)


@pytest.mark.slow
def test_as_many_tokens_with_other_ids_are_refused(solver: Checkpoint, tmp_path: Path) -> None:
    draft = small(tmp_path / "d")
    path = draft / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    assert text.count('"content": "Answer:"') == 1
    path.write_text(text.replace('"content": "Answer:"', '"content": "Result:"'), encoding="utf-8")
    with pytest.raises(ValueError, match="2 tokens different ids"):
        check_draft(draft, solver)

"""What goes along in a bundle beside the model: a process reward model, a calibration, a team."""

from pathlib import Path

import pytest

from kit.package.build import build
from kit.package.contents import plan
from kit.package.targets import Target
from submission.agents.team import load_team
from submission.bundle import verify
from submission.checkpoint import inspect
from submission.selection.calibration import Calibration, save_calibration
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings
from submission.setup import TIES, resolve
from tests.kit.package.made import make_checkpoint

QUICK = ["engine.kind=transformers"]
RULE = Rule(method="prm", aggregate="mean", temperature=0.5, blend=0.8)


def calibration(*, helps: bool) -> Calibration:
    return Calibration(
        method="prm",
        parameters=RULE,
        helps=helps,
        gain=0.1,
        interval=(0.05, 0.15) if helps else (-0.05, 0.2),
        level=0.95,
        p_value=0.01,
        accuracy=0.6,
        majority=0.5,
        problems=200,
        seed=0,
        folds=5,
    )


def make(tmp_path: Path, *, helps: bool | None, prm: bool) -> Path:
    model = make_checkpoint(tmp_path / "solver")
    scorer = None
    if prm:
        config = {"architectures": ["LlamaForTokenClassification"], "num_labels": 2}
        folder = make_checkpoint(tmp_path / "scorer", config=config)
        (folder / "prm.json").write_text('{"format": 1, "separator": "\\n\\n"}')
        scorer = inspect(folder, prm=True)
    path = None
    if helps is not None:
        save_calibration(path := tmp_path / "fitted.json", calibration(helps=helps))
    settings = ContestSettings(team=load_team("mixed"))
    planned = plan(inspect(model), settings, Target.local(), None, prm=scorer, calibration=path)
    return build(planned, tmp_path / "bundle").folder


def test_all_of_it_is_found_again(tmp_path: Path) -> None:
    bundle = make(tmp_path, helps=True, prm=True)
    assert verify(bundle) == []
    setup = resolve(bundle, QUICK)
    assert setup.rule == RULE
    assert setup.prm == bundle.resolve() / "prm"
    assert (bundle / "prm" / "prm.json").is_file()
    assert (bundle / "licenses" / "prm" / "LICENSE").is_file()
    assert setup.settings.team == load_team("mixed")
    assert resolve(bundle, QUICK, team="solo").settings.team == load_team("solo")


@pytest.mark.parametrize(
    ("helps", "prm", "rule"),
    [(None, False, PLAIN), (False, False, PLAIN), (None, True, TIES), (False, True, TIES)],
)
def test_without_a_gain_the_vote_is_plain_and_scores_break_its_ties(
    tmp_path: Path, helps: bool | None, prm: bool, rule: Rule
) -> None:
    assert resolve(make(tmp_path, helps=helps, prm=prm), QUICK).rule == rule


def test_a_damaged_calibration_is_refused_at_commit_time_and_noted_in_the_rerun(tmp_path: Path) -> None:
    bundle = make(tmp_path, helps=True, prm=True)
    path = bundle / "calibration.json"
    path.write_text(path.read_text().replace("0.15", "0.x5"))
    with pytest.raises(ValueError, match="calibration"):
        resolve(bundle, QUICK)
    setup = resolve(bundle, QUICK, strict=False)
    assert setup.rule == TIES
    assert any("No calibration" in note for note in setup.notes)


def test_a_solver_needs_to_generate_and_a_scorer_does_not(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "scorer", config={"architectures": ["LlamaForTokenClassification"]})
    with pytest.raises(ValueError, match="generating"):
        inspect(folder)
    assert inspect(folder, prm=True).architecture == "LlamaForTokenClassification"

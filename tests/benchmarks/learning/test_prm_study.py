"""The study of process reward models: truth of steps, the baseline without content, settings, the page."""

from typing import Any

import numpy as np
import pytest

from benchmarks.learning.prm_report import figures, section
from benchmarks.learning.prm_settings import PRM, PrmStudy, prm_recipe
from benchmarks.learning.prm_steps import (
    best_cut,
    best_wrong_cut,
    fit_places,
    judged,
    place_features,
    values_of,
    wrong_step_f1,
)
from kit.data.labelled import LabelledSolution
from kit.data.records import Record
from kit.worked import generate

RECORD = Record(
    problem="Compute 1 + 2 + 3.",
    answer="6",
    completion="Step 1: 1 + 2 = 3\n\nStep 2: 3 + 3 = 6\n\nAnswer: \\boxed{6}",
)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (RECORD.completion, (1.0, 1.0, 1.0)),
        ("Step 1: 1 + 2 = 4\n\nStep 2: 4 + 3 = 7\n\nAnswer: \\boxed{7}", (0.0, None, None)),
        ("Step 1: 1 + 2 = 3\n\nStep 2: 3 + 3 = 6\n\nAnswer: \\boxed{7}", (1.0, 1.0, 0.0)),
        (f"{RECORD.completion}\n\nMore.", (1.0, 1.0, 1.0, 0.0)),
        ("Step 1: 1 + 2 = 3", (1.0,)),
    ],
)
def test_truth_of_steps(text: str, labels: tuple[float | None, ...]) -> None:
    found = judged(RECORD, text, "7")
    assert found is not None
    assert (found.labels, found.id) == (labels, "7")


def test_no_text_no_steps() -> None:
    assert judged(RECORD, " \n ") is None


def test_the_generators_own_solutions_are_right() -> None:
    for record in generate(20, "train", 3):
        found = judged(record, record.completion)
        assert found is not None
        assert set(found.labels) == {1.0}


def test_places_learn_what_places_can() -> None:
    """Where the second step is always the wrong one, its number is enough."""
    records = [
        LabelledSolution(problem="p", steps=("a", "bb", "c"), labels=(1.0, 0.0, None)) for _ in range(30)
    ] + [LabelledSolution(problem="p", steps=("a",), labels=(1.0,)) for _ in range(30)]
    weights = fit_places(records)
    scores = [place_features(one) @ weights for one in records]
    cut = best_cut(scores, [values_of(one) for one in records])
    assert all(scores[0][:2] >= cut) is False
    assert scores[0][1] < cut <= scores[0][0]
    assert wrong_step_f1(scores, [values_of(one) for one in records], cut) == 1.0


def test_wrong_steps_by_hand() -> None:
    """One hit, one false alarm, one miss, one unknown: 2 / (2 + 2)."""
    scores = [np.array([-1.0, -1.0, -1.0]), np.array([1.0])]
    labels = [np.array([0.0, 1.0, np.nan]), np.array([0.0])]
    assert wrong_step_f1(scores, labels, 0.0) == 0.5
    assert wrong_step_f1(scores, labels, -2.0) == 0.0


def test_the_best_cut_of_wrong_steps_is_found() -> None:
    scores = [np.array([3.0, 2.0, -2.0]), np.array([-1.0, 4.0])]
    labels = [np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0])]
    assert -1 < best_wrong_cut(scores, labels) <= 2


def test_settings_make_recipes(tmp_path: Any) -> None:
    study = PrmStudy.load(PRM)
    assert study.policies().start == study.start
    recipe = prm_recipe(study, tmp_path, "classifier", 1)
    assert (recipe.head.kind, recipe.seed) == ("token_classification", 1)
    assert recipe.batch.max_steps == study.arm("classifier").steps
    with pytest.raises(ValueError, match="repeat one"):
        PrmStudy.load(PRM, ["seeds=[1, 1]"])


def result(gain: float) -> dict[str, Any]:
    random = np.random.default_rng(0)
    base = (random.random(200) < 0.4).astype(float)
    better = np.maximum(base, random.random(200) < gain)
    steps = dict.fromkeys(
        ("f1", "wrong_f1", "found_errors", "passed_right", "step_accuracy", "ece", "f1_at_half"), 0.8
    )
    return {
        "cpu_seconds": 30.0,
        "right": {"majority": base.tolist(), "vote": better.tolist(), "best_of_n": base.tolist()},
        "attempts_right": [0.3] * 200,
        "test": steps,
        "places": steps,
    }


def test_the_page_tells_gains_with_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.learning.prm_report.REPEATS", 500)
    study = PrmStudy.load(PRM, ["seeds=[0, 1]"])
    starts = {seed: {"steps": 900, "cpu_seconds": 60.0, "sampling_seconds": 16.0} for seed in (0, 1)}
    runs = {(arm, seed): result(0.3) for arm in study.arms for seed in (0, 1)}
    found = figures(study, starts, runs)
    row = found["arms"]["logprob"]["seeds"][0]
    assert row["vote_gain"][0] == pytest.approx(row["vote"] - row["majority"])
    assert row["vote_gain"][1] > 0
    assert row["best_of_n_gain"] == [0.0, 0.0, 0.0]
    text = "\n".join(section(found))
    assert "clear of zero on 2 of 2" in text.replace("\n", " ")
    assert "clear of zero on 0 of 2" in text.replace("\n", " ")

"""The study of process reward models: for each seed a distilled policy, its solutions, and a scorer by arm.

    start-SEED   the policy, its labelled solutions to training problems, its attempts at the test problems
    ARM-SEED     a scorer from the policy's weights; step figures and the votes of its scores

A run that was stopped is done again as a whole, so that its CPU-seconds are those of all of it.
"""

import asyncio
import importlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.prm_settings import PrmStudy, prm_recipe
from benchmarks.learning.prm_steps import (
    best_cut,
    best_wrong_cut,
    fit_places,
    judged,
    place_features,
    values_of,
    wrong_step_f1,
)
from benchmarks.learning.runs import (
    begin,
    check_finished,
    keep_settings,
    load_settings,
    run_waiting,
    write_result,
)
from benchmarks.learning.starts import DRAWS, START, ArmRun, run_anew, start_costs, write_problems
from kit.data.labelled import LabelledSolution, write_labelled
from kit.data.readers import read_labelled
from kit.data.records import Record, read_records
from kit.prm.figures import figures
from submission.answers import check, extract, parse_gold, to_int
from submission.files import write_text
from submission.selection.candidate import Candidate
from submission.selection.rule import Rule, ranked

RULES = {
    "majority": Rule(),
    "vote": Rule(method="prm", aggregate="product"),
    "best_of_n": Rule(method="best_of_n", aggregate="product"),
}
"""A step's score is the chance that it is right if all before it are: their product is the solution's."""


def scorer_runs(study: PrmStudy) -> list[ArmRun]:
    """Arm by arm."""
    return [ArmRun(arm, seed) for arm in study.arms for seed in study.seeds]


def prepare(study: PrmStudy, folder: Path) -> None:
    """Write the settings and the problems into `folder`, once.

    Raises:
        ValueError: the folder holds a study with other settings, or the difficulty has too few problems.
    """
    if not begin(study, folder):
        return
    write_problems(study, folder, study.problems)
    keep_settings(study, folder)


def run_all(study: PrmStudy, folder: Path, jobs: int, say: Callable[[str], None]) -> None:
    """Every run that has no result yet: the policies, then the scorers, `jobs` at a time.

    Args:
        say: is called with one line for each run that ended.

    Raises:
        ValueError: a run failed; the message names its log.
    """
    prepare(study, folder)
    common: dict[str, Any] = {"module": "benchmarks.learning.prm", "line": _line}
    run_waiting("one", start_costs(study.seeds), folder, jobs, say, **common)
    costs = {run.name: float(study.arm(run.arm).steps) for run in scorer_runs(study)}
    run_waiting("one", costs, folder, jobs, say, **common)


def _line(name: str, result: dict[str, Any]) -> str:
    if name.startswith(f"{START}-"):
        return f"{name}: {result['steps']} steps, {result['cpu_seconds']:.0f} CPU-s"
    right = {rule: sum(values) / len(values) for rule, values in result["right"].items()}
    told = ", ".join(f"{rule} {share:.3f}" for rule, share in right.items())
    return f"{name}: {result['cpu_seconds']:.0f} CPU-s, step F1 {result['test']['f1']:.3f}; {told}"


def run_one(folder: Path, name: str) -> None:
    """Distil one seed's policy and draw its solutions, or train one scorer; write its result."""
    # Loaded before the clock starts: libraries take as long to import as several steps.
    for library in ("torch", "transformers", "kit.distill.phase", "kit.prm.phase"):
        importlib.import_module(library)
    study = load_settings(PrmStudy, folder)
    result = run_anew(
        folder,
        name,
        study.seeds,
        scorer_runs(study),
        start=lambda seed: make_policy(study, folder, seed),
        arm=lambda run: train_scorer(study, folder, run),
    )
    write_result(folder, name, {"run": name, **result})


def make_policy(study: PrmStudy, folder: Path, seed: int) -> dict[str, Any]:
    """Distil a seed's policy, and let it solve the training and the test problems."""
    from benchmarks.learning.accuracy import complete
    from benchmarks.learning.grpo_study import train_start

    found = train_start(study.policies(), folder, seed)
    out = folder / f"{START}-{seed}"
    began = time.process_time()

    def attempts(records: list[Record], draw: int) -> list[str]:
        problems = [record.problem for record in records for _ in range(study.attempts)]
        return complete(
            out / "model", problems, temperature=1, seed=draw, max_new_tokens=study.max_completion
        )

    training = list(read_records(folder / f"problems-{seed}.jsonl"))
    labelled = [
        judged(training[number // study.attempts], text, str(number))
        for number, text in enumerate(attempts(training, seed * DRAWS))
    ]
    write_labelled(out / "steps.jsonl", [record for record in labelled if record is not None])
    texts = attempts(list(read_records(folder / "test.jsonl")), seed * DRAWS + 1)
    write_text(out / "attempts.json", json.dumps(texts))
    return {**found, "sampling_seconds": time.process_time() - began}


def train_scorer(study: PrmStudy, folder: Path, run: ArmRun) -> dict[str, Any]:
    """One scorer: its cost, its figures by step, and whether each rule solves each test problem.

    Returns:
        `test`, `places`: figures of the scorer and of places alone, each at the cut that was best on
        `tuned` training solutions. `right`: by rule and problem.
    """
    from kit.prm.phase import prm
    from kit.training.metrics import read_metrics
    from submission.prm.transformers_scorer import TransformersScorer

    recipe = prm_recipe(study, folder, run.arm, run.seed)
    began = time.process_time()
    check_finished(prm(recipe))
    spent = time.process_time() - began
    scorer = TransformersScorer(recipe.out / "model")
    asyncio.run(scorer.start())
    records = list(read_records(folder / "test.jsonl"))
    texts: list[str] = json.loads((folder / f"{START}-{run.seed}" / "attempts.json").read_text())
    size = study.attempts
    groups = [texts[at * size : (at + 1) * size] for at in range(len(records))]
    scores = [
        scorer.step_scores_many(record.problem, group) for record, group in zip(records, groups, strict=True)
    ]
    training = list(read_labelled(recipe.data.path))
    tuned = training[: 2 * len(records)]
    solved = [
        (judged(record, text), given)
        for record, group, found in zip(records, groups, scores, strict=True)
        for text, given in zip(group, found, strict=True)
    ]
    test = [(record, np.array(given)) for record, given in solved if record is not None]
    lines = read_metrics(recipe.out / "metrics.jsonl")
    result = {
        "cpu_seconds": spent,
        "steps": recipe.batch.max_steps,
        "curve": [{"step": line.step, **line.values} for line in lines if line.kind == "eval"],
        "right": {
            name: [
                _solves(rule, record, group, found)
                for record, group, found in zip(records, groups, scores, strict=True)
            ]
            for name, rule in RULES.items()
        },
        "attempts_right": [
            sum(check(text, parse_gold(record.answer)) for text in group) / size
            for record, group in zip(records, groups, strict=True)
        ],
        "test": _figures_of_scorer(scorer, tuned, test),
        "places": _figures_of_places(training, [record for record, _ in test]),
    }
    for part in ("checkpoints", "tokens"):
        shutil.rmtree(recipe.out / part)
    return result


def _solves(rule: Rule, record: Record, texts: list[str], scores: list[list[float]]) -> float:
    """1 where the rule chooses the right answer."""
    answers = [found.text if (found := extract(text)) else None for text in texts]
    canonical = [None if text is None else to_int(text) for text in answers]
    candidates = [
        Candidate(answer=answer, steps=tuple(steps)) for answer, steps in zip(canonical, scores, strict=True)
    ]
    standing = ranked(candidates, rule)
    return float(bool(standing) and standing[0].answer == to_int(record.answer))


def _figures_of_scorer(
    scorer: Any, tuned: list[LabelledSolution], test: list[tuple[LabelledSolution, Any]]
) -> dict[str, float]:
    known = [_odds(scorer.step_scores(one.problem, "\n\n".join(one.steps))) for one in tuned]
    odds = [_odds(values) for _, values in test]
    records = [record for record, _ in test]
    # At one half: what the calibrated probabilities are worth without a look at any other solution.
    half = figures(odds, [values_of(record) for record in records])
    return {**_told((known, tuned), (odds, records)), "f1_at_half": half["f1"], "ece": half["ece"]}


def _figures_of_places(training: list[LabelledSolution], test: list[LabelledSolution]) -> dict[str, float]:
    weights = fit_places(training)
    known, found = ([place_features(one) @ weights for one in some] for some in (training, test))
    return _told((known, training), (found, test))


def _told(
    tuned: tuple[list[Any], list[LabelledSolution]], test: tuple[list[Any], list[LabelledSolution]]
) -> dict[str, float]:
    """Figures on test solutions, each F1 at the threshold that is best for it on the tuned ones."""
    known, truth = tuned[0], [values_of(record) for record in tuned[1]]
    odds, labels = test[0], [values_of(record) for record in test[1]]
    cut = best_cut(known, truth)
    found = figures(odds, labels, float(1 / (1 + np.exp(-cut))))
    wrong = wrong_step_f1(odds, labels, best_wrong_cut(known, truth))
    return {**found, "wrong_f1": wrong, "step_accuracy": figures(odds, labels)["accuracy"]}


def _odds(values: Any) -> Any:
    cut = np.clip(np.array(values), 1e-9, 1 - 1e-9)
    return np.log(cut / (1 - cut))

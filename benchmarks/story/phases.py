"""What each phase of the training is worth on the same problems, and what it adds to the one before."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from benchmarks.compare.pooling import check_alike, shared_problems
from benchmarks.report.loading import read_finished
from benchmarks.run.gathering import ENDED
from benchmarks.run.reading import LoadedRun
from benchmarks.run.tables import SAMPLES
from benchmarks.statistics.accuracy import accuracy_interval
from benchmarks.statistics.paired import paired_difference
from submission.prm.aggregate import Aggregate
from submission.selection.candidate import Candidate
from submission.selection.rule import PLAIN, Rule, ranked
from submission.selection.statistics import Interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Measure = Literal["pass", "maj", "prm"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
LONGEST_LABEL = 24
COUNTED = (*ENDED, "error")
"""How a sample ends that counts, as in the run's own figures: a failed one counts as without an answer."""
_RULE = re.compile(
    rf"(prm|best_of_n) \(({'|'.join(get_args(Aggregate))})(?:, T ([\d.e+-]+), blend ([\d.e+-]+))?\)"
)


@dataclass(frozen=True)
class Phase:
    """A phase and its run of samples.

    Args:
        label: its name on the page.
        run: as it was read.
        tables: [repeats, problems] of each measure: share of right samples ("pass"), whether the plain vote
            of all samples is right ("maj"), whether the one that the process reward model weighs is ("prm",
            where the samples have scores).
    """

    label: str
    run: LoadedRun
    tables: "Mapping[Measure, npt.NDArray[np.float64]]"

    def accuracy(self, measure: Measure) -> Interval | None:
        """Mean with its 95 % interval; None for what was not measured."""
        table = self.tables.get(measure)
        return None if table is None else accuracy_interval(table)


@dataclass(frozen=True)
class Gain:
    """What a phase adds to a measure of the phase before, or its scores to its own plain vote (`before` "").

    `difference` is paired over problems, with a 95 % interval; `same`: nothing differs on any problem.
    """

    phase: str
    before: str
    measure: Measure
    difference: Interval
    same: bool = False


@dataclass(frozen=True)
class Phases:
    """All phases on the same problems, in their order.

    Args:
        phases: one at least.
        samples: drawn of each problem; the k of maj@k.
        sets: names of the problem sets.
        problems: in all of them.
        dropped: problems left out since training has seen them.
    """

    phases: tuple[Phase, ...]
    samples: int
    sets: tuple[str, ...]
    problems: int
    dropped: int

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those that some phase has."""
        return tuple(one for one in MEASURES if any(one in phase.tables for phase in self.phases))

    def gains(self) -> list[Gain]:
        """What each phase adds to the one before it, and each phase's scores to its plain vote."""
        found = []
        for first, second in pairwise(self.phases):
            for measure in MEASURES:
                if measure in first.tables and measure in second.tables:
                    tables = first.tables[measure], second.tables[measure]
                    found.append(_gain(second.label, first.label, measure, *tables))
        for phase in self.phases:
            if "prm" in phase.tables:
                # Of the same samples, so repeats are paired too: shares of them a problem.
                plain, weighed = (phase.tables[one].mean(axis=0)[None] for one in ("maj", "prm"))
                found.append(_gain(phase.label, "", "prm", plain, weighed))
        return found


def _gain(
    phase: str,
    before: str,
    measure: Measure,
    first: "npt.NDArray[np.float64]",
    second: "npt.NDArray[np.float64]",
) -> Gain:
    same = first.shape == second.shape and bool((first == second).all())
    return Gain(phase, before, measure, paired_difference(first, second), same)


def parse_phase(text: str) -> tuple[str, Path]:
    """Label and folder of `LABEL=FOLDER`.

    Raises:
        ValueError: it is spelled otherwise, or the label is empty, too long, or not printable.
    """
    label, equals, folder = text.partition("=")
    label = label.strip()
    if not equals or not label or not folder:
        raise ValueError(f"--phase {text!r}: expected LABEL=FOLDER, like GRPO=runs/grpo")
    if len(label) > LONGEST_LABEL or not label.isprintable():
        raise ValueError(f"--phase {text!r}: the label must have 1 to {LONGEST_LABEL} printable characters")
    return label, Path(folder)


def read_phases(named: Sequence[tuple[str, Path]]) -> Phases:
    """Read the runs of all phases.

    Args:
        named: label and folder of each, in the order of training.

    Raises:
        ValueError: none, a label or folder given twice, a folder without a finished run of samples, runs of
            other problems or numbers of samples, or no problem that training has not seen.
    """
    if not named:
        raise ValueError('no phase: name one at least, like --phase "GRPO=runs/grpo"')
    labels = [label for label, _ in named]
    if len(set(labels)) < len(labels):
        raise ValueError(f"two phases have one label: {', '.join(labels)}")
    runs = [read_finished(folder) for _, folder in named]
    for run in runs:
        if run.results.get("mode") != "samples":
            raise ValueError(f"{run.folder} holds contests: a phase is a run with --samples")
    check_alike(runs)
    sets = tuple(runs[0].sets)
    for run in runs[1:]:
        if set(run.sets) != set(sets):
            raise ValueError(
                f"{runs[0].folder} and {run.folder} have other problem sets: {', '.join(sets)} and "
                f"{', '.join(run.sets)}"
            )
    whole, places = shared_problems(runs, sets)
    kept = [whole[place] for place in places]
    phases = [Phase(label, run, _tables(run, kept)) for label, run in zip(labels, runs, strict=True)]
    return Phases(tuple(phases), runs[0].results["samples"], sets, len(kept), len(whole) - len(kept))


def parse_rule(text: str | None) -> Rule | None:
    """The rule of a run's PRM@k from its spelling in results.json; None where there is none.

    Raises:
        ValueError: it is no rule by scores.
    """
    if text is None:
        return None
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(f"prm_rule {text!r} is no vote by scores")
    method, aggregate, temperature, blend = found.groups()
    return Rule.model_validate(
        {
            "method": method,
            "aggregate": aggregate,
            **({} if temperature is None else {"temperature": float(temperature), "blend": float(blend)}),
        }
    )


def _tables(run: LoadedRun, kept: Sequence[tuple[str, str]]) -> "dict[Measure, npt.NDArray[np.float64]]":
    import numpy as np
    import polars as pl

    try:
        rule = parse_rule(run.results.get("prm_rule"))
        wanted = ["set", "repeat", "problem_id", "answer", "isCorrect", "finish", "steps"]
        cells: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        for row in pl.read_parquet(run.folder / SAMPLES, columns=wanted).iter_rows(named=True):
            cells.setdefault((row["set"], row["problem_id"], row["repeat"]), []).append(row)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ValueError(f"{run.folder}: its samples cannot be read: {first}") from None
    rules: dict[Measure, Rule] = {"maj": PLAIN, **({} if rule is None else {"prm": rule})}
    samples, repeats = run.results["samples"], run.results["repeat"]
    found: dict[Measure, list[list[float]]] = {"pass": [], **{measure: [] for measure in rules}}
    for repeat in range(repeats):
        drawn = [_counted(cells.get((*key, repeat), ()), samples) for key in kept]
        found["pass"].append([sum(one["isCorrect"] for one in rows) / samples for rows in drawn])
        for measure, how in rules.items():
            found[measure].append([_chosen(rows, how) for rows in drawn])
    return {measure: np.asarray(rows, dtype=np.float64) for measure, rows in found.items()}


def _counted(rows: Sequence[dict[str, Any]], samples: int) -> list[dict[str, Any]]:
    return [one for one in rows if one["finish"] in COUNTED][:samples]


def _chosen(rows: Sequence[dict[str, Any]], rule: Rule) -> float:
    """Whether the rule chooses a right answer among all samples; what is missing votes for nothing."""
    candidates = [
        Candidate(one["answer"], steps=tuple(one["steps"] or ()), finished=one["finish"] in ENDED)
        for one in rows
    ]
    if len({one.answer for one in candidates} - {None}) < 2:
        # One answer alone is given whatever it scores, as in the run's own figures.
        rule = PLAIN
    standing = ranked(candidates, rule)
    return float(bool(standing) and rows[standing[0].first]["isCorrect"])

"""Phases on the same problems: tables as the run's own figures, differences by hand, sentences, refusals."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics.paired import paired_difference
from benchmarks.story.phases import Gain, parse_phase, parse_rule, read_phases
from benchmarks.story.telling import Told, told
from submission.selection.rule import Rule
from submission.selection.statistics import Interval
from tests.benchmarks.report.folders import Problem, problems_of, write_run

MIXED = [
    Problem("a", 1, [[1, 2, 1, 1], [1, None, 2, 2]]),
    Problem("b", 2, [[2, 3, 3, None], [3, 3, 3, 3]]),
    Problem("c", 3, [[None] * 4, [3, 3, 1, 1]]),
]
"""Votes are 1, 3 and nothing, then 2, 3 and 3 (the first of two equals). Right are 4 of 12, then 3 of 12."""


def test_tables_by_hand_and_as_the_runs_own_figures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", MIXED, samples=4, knowing=True)
    (phase,) = read_phases([("Only", run)]).phases
    found = {measure: table.tolist() for measure, table in phase.tables.items()}
    assert found["pass"] == [[0.75, 0.25, 0.0], [0.25, 0.0, 0.5]]
    assert found["maj"] == [[1, 0, 0], [0, 0, 1]]
    # Of several answers the one with the high scores is taken; of one alone, that.
    assert found["prm"] == [[1, 1, 0], [1, 0, 1]]
    row = phase.run.results["figures"]["own"]["at_k"]
    assert row[-1]["k"] == 4
    for measure, which in (("pass", row[0]), ("maj", row[-1]), ("prm", row[-1])):
        interval = phase.accuracy(measure)  # type: ignore[arg-type]  # the three measures
        assert interval is not None and interval._asdict() == pytest.approx(which[measure])


def test_gains_by_hand(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", problems_of([[1, 0, 0, 0]], 4), samples=4)
    second = write_run(tmp_path / "second", problems_of([[1, 1, 1, 0]], 4), samples=4)
    third = write_run(tmp_path / "third", problems_of([[1, 1, 1, 0]], 4), samples=4, knowing=True)
    phases = read_phases([("A", first), ("B", second), ("C", third)])
    assert (phases.samples, phases.sets, phases.problems) == (4, ("own",), 4)
    assert phases.measures == ("pass", "maj", "prm") and "prm" not in phases.phases[1].tables
    gains = {(one.phase, one.before, one.measure): one for one in phases.gains()}
    assert set(gains) == {
        ("B", "A", "pass"),
        ("B", "A", "maj"),
        ("C", "B", "pass"),
        ("C", "B", "maj"),
        ("C", "", "prm"),
    }
    gain = gains["B", "A", "pass"]
    before, after = (np.array([[float(one) for one in row]]) for row in ("1000", "1110"))
    assert gain.difference == paired_difference(before, after) and gain.difference.mean == 0.5
    assert not gain.same and gains["C", "B", "maj"].same and gains["C", "", "prm"].same


def test_scores_are_held_against_the_votes_of_the_same_samples(tmp_path: Path) -> None:
    split = [Problem(str(n), 5, [[6, 6, 6, 5]]) for n in range(12)]
    knowing = write_run(tmp_path / "knowing", split, samples=4, knowing=True)
    (gain,) = read_phases([("PRM", knowing)]).gains()
    # One right sample of four: three votes of weight 0.1 against one of 0.9.
    assert (gain.phase, gain.before, gain.measure) == ("PRM", "", "prm")
    assert gain.difference.mean == 1 and gain.difference.low > 0.5
    (sentence,) = told([gain], 4)
    assert sentence.sign == 1
    assert sentence.text.startswith("PRM: weighing the votes by step scores adds +100.0 points [")
    assert sentence.text.endswith("] to maj@4")


def test_sentences() -> None:
    gains = [
        Gain("GRPO", "Distilled", "pass", Interval(0.307, 0.256, 0.359)),
        Gain("GRPO", "Distilled", "maj", Interval(0.01, -0.02, 0.04)),
        Gain("PRM", "GRPO", "pass", Interval(0.0, -0.1, 0.1), same=True),
        Gain("PRM", "GRPO", "maj", Interval(0.0, -0.1, 0.1), same=True),
        Gain("PRM", "", "prm", Interval(-0.05, -0.08, -0.02)),
    ]
    assert told(gains, 8) == [
        Told("GRPO adds +30.7 points [+25.6, +35.9] to pass@1", 1),
        Told("GRPO moves maj@8 by +1.0 points [-2.0, +4.0], not told from chance", 0),
        Told("PRM: weighing the votes by step scores takes 5.0 points [2.0, 8.0] from maj@8", -1),
        Told("PRM leaves pass@1 and maj@8 as before on every problem", 0),
    ]


@given(
    method=st.sampled_from(["prm", "best_of_n"]),
    aggregate=st.sampled_from(["min", "mean", "last", "product"]),
    temperature=st.sampled_from([1.0, 0.25, 1e-3, 12.5, 1e6]),
    blend=st.sampled_from([1.0, 0.5, 0.125]),
)
def test_rules_are_read_back(method: str, aggregate: str, temperature: float, blend: float) -> None:
    rule = Rule.model_validate(
        {"method": method, "aggregate": aggregate, "temperature": temperature, "blend": blend}
    )
    found = parse_rule(str(rule))
    assert str(found) == str(rule) and (found == rule or method == "best_of_n")


def test_other_rules_are_refused() -> None:
    assert parse_rule(None) is None
    for text in ("majority", "logprob (T 1, blend 1)", "prm (min", "prm (least, T 1, blend 1)"):
        with pytest.raises(ValueError, match="no vote by scores"):
            parse_rule(text)


# --- refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["runs/a", "=runs/a", " =runs/a", "GRPO=", "a\u0000=b", "x" * 25 + "=runs/a"]
)
def test_labels_are_checked(text: str) -> None:
    with pytest.raises(ValueError, match="--phase"):
        parse_phase(text)


def test_a_label_and_a_folder() -> None:
    assert parse_phase("GRPO = 2=runs/a=b") == ("GRPO", Path(" 2=runs/a=b"))


def test_runs_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", problems_of([[1, 0]], 4), samples=4)
    contest = write_run(tmp_path / "contest", problems_of([[1, 0]], 4))
    other = write_run(tmp_path / "other", problems_of([[1, 0, 1]], 4), samples=4)
    renamed = write_run(tmp_path / "renamed", problems_of([[1, 0]], 4), samples=4, name="else")
    more = write_run(tmp_path / "more", problems_of([[1, 0]], 8), samples=8)
    seen = write_run(
        tmp_path / "seen", problems_of([[1, 0]], 4), samples=4, contaminated={"own": ["p0", "p1"]}
    )
    for second, message in (
        (contest, "contest holds contests"),
        (other, "set own has other problems in"),
        (renamed, "have other problem sets: own and else"),
        (more, "samples is 4 and 8"),
        (first, "is named twice"),
        (seen, "all 2 problems were in the training data"),
        (tmp_path, "holds no finished run"),
    ):
        with pytest.raises(ValueError, match=message):
            read_phases([("A", first), ("B", second)])
    with pytest.raises(ValueError, match="two phases have one label: A, A"):
        read_phases([("A", first), ("A", other)])
    (first / "samples.parquet").write_bytes(b"torn")
    with pytest.raises(ValueError, match="its samples cannot be read"):
        read_phases([("A", first)])

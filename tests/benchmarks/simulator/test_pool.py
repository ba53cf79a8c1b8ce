"""From recordings to pools: answers, times, and what is said of both."""

import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from benchmarks.shared import shared_file
from benchmarks.simulator.pool import RIGHT, make_pools, read_pools
from benchmarks.simulator.recording import Taken, read_recording
from benchmarks.simulator.throughput import Curve, Measured


def taken(problem: str, answer: object, seconds: float, **more: object) -> Taken:
    one = Taken(problem, "c", 0, str(answer), right=answer == "good", tokens=100, seconds=seconds)
    return replace(one, **more)  # type: ignore[arg-type]  # fields by name


def test_answers_are_votes_of_their_own_and_the_right_one_is_one() -> None:
    found = [taken("p", "x", 1), taken("p", "good", 1), taken("p", "y", 1), taken("p", "x", 1)]
    problems, notes = make_pools([*found, replace(found[0], answer=None)], Curve(1.0, 8.0))
    codes = [one.answer for one in problems[0].samples]
    assert codes == [RIGHT + 1, RIGHT, RIGHT + 2, RIGHT + 1, None]
    assert problems[0].pass_rate == 1 / 5
    assert notes == ()
    assert len({one.text for one in problems[0].samples}) == 5


def test_work_is_what_a_sample_would_have_taken_alone() -> None:
    together = [taken("p", "a", 6, begun=0.0), taken("p", "b", 2, begun=0.0)]
    problems, _ = make_pools(together, Curve(1.0, 1.0))
    # Two share 2 seconds at half speed, the longer one has 4 alone.
    assert [one.work for one in problems[0].samples] == [5, 1]


def test_without_a_time_line_all_attempts_began_together() -> None:
    pools = read_pools([taken("p", "a", 6), taken("p", "b", 2)], half=1.0)
    assert [one.work for one in pools.problems[0].samples] == [5, 1]
    assert pools.source == "half given"
    assert "no time line" in read_pools([taken("p", "a", 6)]).source


def test_a_given_engine_goes_by_tokens() -> None:
    pools = read_pools([taken("p", "a", math.nan)], measured=Measured(((1, 50),)))
    assert pools.problems[0].samples[0].work == 2
    with pytest.raises(ValueError, match="--throughput"):
        read_pools([taken("p", "a", math.nan)])
    with pytest.raises(ValueError, match="no numbers of tokens"):
        read_pools([taken("p", "a", 1, tokens=0)], measured=Measured(((1, 50),)))
    with pytest.raises(ValueError, match="give one"):
        read_pools([taken("p", "a", 1)], measured=Measured(((1, 50),)), half=3.0)


def test_samples_that_were_cut_off_are_played_where_there_are_no_others() -> None:
    cut = [taken("p", "good", 9, ended=False), taken("p", "x", 1), taken("q", "x", 5, ended=False)]
    problems, notes = make_pools(cut, Curve(1.0, 8.0))
    assert [[one.ended for one in problem.samples] for problem in problems] == [[True], [False]]
    assert problems[1].pass_rate == 0
    assert notes[0].startswith("2 of 3 samples were cut off")
    assert notes[1].startswith("1 problems have no sample that ended")
    kept, notes = make_pools(cut, Curve(1.0, 8.0), keep_cut=True)
    assert len(kept[0].samples) == 2
    assert notes == ()


def test_others_tables_are_read(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "problem_id": ["a", "a", "b"],
            "answer": ["5", "None", "7"],
            "isCorrect": [True, False, False],
            "time": [1.5, 2.5, 3.5],
            "total_tokens": [10, 20, 30],
        }
    )
    table.write_parquet(tmp_path / "theirs.parquet")
    found = read_recording([tmp_path / "theirs.parquet"])
    assert [(one.problem, one.answer is None, one.right, one.seconds, one.tokens) for one in found] == [
        ("a", False, True, 1.5, 10),
        ("a", True, False, 2.5, 20),
        ("b", False, False, 3.5, 30),
    ]


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_recording([tmp_path])
    (tmp_path / "samples.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="cannot be read"):
        read_recording([tmp_path])
    pl.DataFrame({"ended_at": [1.0]}).write_parquet(tmp_path / "samples.parquet")
    with pytest.raises(ValueError, match="not a run's samples"):
        read_recording([tmp_path])


@pytest.mark.parametrize(
    ("name", "rate"),
    [("gpt-oss-120b_cot_aimo3.parquet", 0.5), ("qwen2.5-math-7b_math_8samples.jsonl", 0.91)],
)
def test_real_recordings_keep_their_pass_rate(name: str, rate: float) -> None:
    path = shared_file(f"samples/{name}")
    if path is None:
        pytest.skip(f"{name} is not here")
    pools = read_pools(read_recording([path]), measured=Measured(((1, 180), (8, 700))))
    share = sum(one.pass_rate for one in pools.problems) / len(pools.problems)
    assert share == pytest.approx(rate, abs=0.005)
    assert all(
        len(one.samples) == 8 and min(drawn.work for drawn in one.samples) > 0 for one in pools.problems
    )

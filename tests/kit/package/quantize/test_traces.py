"""Which traces calibrate, which are held out, and when there are too few."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.data.records import Record, write_records
from kit.package.quantize.traces import (
    MIN_CALIBRATION,
    MIN_HELD_OUT,
    Wanted,
    check_tokens,
    draw,
    prm_rows,
    solver_rows,
)
from kit.small import make_small_tokenizer
from kit.training.chat import open_chat
from tests.kit.package.quantize.made import solved, traces


def problems(records: tuple[Record, ...]) -> set[str]:
    return {record.problem for record in records}


def test_no_problem_is_on_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    # Three solutions of each problem, as a trace file has them.
    write_records(path, [solved(f"{n} + 1?", f"Try {k}.", attempt=k) for n in range(150) for k in range(3)])
    drawn = draw(Wanted((path,)), calibrated=True)
    assert problems(drawn.calibration).isdisjoint(problems(drawn.held_out))
    assert len(drawn.held_out) == len(problems(drawn.held_out)) == 64
    # 86 problems are left: a trace of each, then second and third ones until there are 256.
    assert len(problems(drawn.calibration)) == 86
    assert len(drawn.calibration) == 256
    assert [record.attempt for record in drawn.calibration[:86]] == [0] * 86


def test_files_in_any_order_give_the_same_traces_and_seeds_others(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    records = [solved(f"{n} + 1?") for n in range(200)]
    write_records(parts[0], records[:90])
    write_records(parts[1], records[90:])
    first = draw(Wanted((parts[0], parts[1])), calibrated=True)
    assert draw(Wanted((parts[1], parts[0])), calibrated=True) == first
    other = draw(Wanted((parts[0], parts[1]), seed=1), calibrated=True)
    assert problems(other.held_out) != problems(first.held_out)


def test_few_problems_go_to_the_calibration_first(tmp_path: Path) -> None:
    path = traces(tmp_path / "t.jsonl", MIN_CALIBRATION + MIN_HELD_OUT + 3)
    drawn = draw(Wanted((path,)), calibrated=True)
    assert (len(drawn.calibration), len(drawn.held_out)) == (MIN_CALIBRATION, MIN_HELD_OUT + 3)


def test_too_few_problems_are_refused_with_what_needs_none(tmp_path: Path) -> None:
    path = traces(tmp_path / "t.jsonl", MIN_CALIBRATION + MIN_HELD_OUT - 1)
    with pytest.raises(ValueError, match=r"95 problems .* at least 96 .*fp8, int8-rtn"):
        draw(Wanted((path,)), calibrated=True)
    assert len(draw(Wanted((path,)), calibrated=False).held_out) == 64


def test_traces_known_to_be_wrong_calibrate_nothing_but_a_prm(tmp_path: Path) -> None:
    path = traces(tmp_path / "t.jsonl", 120, correct=False)
    with pytest.raises(ValueError, match="0 problems with a completion that is not known to be wrong"):
        draw(Wanted((path,)), calibrated=True)
    assert draw(Wanted((path,)), calibrated=True, wrong=True).problems == 120


def test_no_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--calibration-traces is missing.*kit\.traces"):
        draw(Wanted(()), calibrated=False)


@pytest.mark.parametrize("changes", [{"calibration": 16}, {"held_out": 3}, {"max_length": 2}])
def test_numbers_that_are_never_enough_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Wanted((), **changes)


@given(st.integers(1, 500), st.integers(1, 2_000))
def test_tokens_must_reach_the_widest_layer(tokens: int, widest: int) -> None:
    rows = [[0]] * tokens
    if tokens >= widest:
        assert check_tokens(rows, widest) == tokens
    else:
        with pytest.raises(ValueError, match="fewer than"):
            check_tokens(rows, widest)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_small_tokenizer().save_pretrained(folder)
    return folder


def test_rows_are_prompts_and_completions_of_the_chat_template(tokenizer: Path) -> None:
    record = solved("1 + 3?", "Step 1: 1 + 3 = 4")
    rows = solver_rows(tokenizer, [record] * MIN_HELD_OUT, 2_048)
    chat = open_chat(make_small_tokenizer())
    assert rows == [([*chat.prompt(record), *chat.completion(record)], len(chat.prompt(record)))] * 32
    cut = solver_rows(tokenizer, [record] * MIN_HELD_OUT, len(rows[0][0]) - 2)
    assert cut[0][0] == rows[0][0][:-2]


def test_traces_that_do_not_fit_the_model_are_refused(tokenizer: Path) -> None:
    with pytest.raises(ValueError, match=r"only 0 of 40 traces .*prompt alone"):
        solver_rows(tokenizer, [solved("1 + 3? " * 9)] * 40, 8)


@pytest.mark.slow
def test_a_prms_rows_are_what_it_scores(tmp_path: Path) -> None:
    from submission.prm.encoding import StepEncoder
    from submission.prm.heads import read_prm
    from tests.submission.prm.checkpoints import classifier

    folder = classifier(tmp_path / "prm")
    record = solved("1 + 3?", "First, 3.\n\nThen 4.")
    rows = prm_rows(folder, [record] * MIN_HELD_OUT, 2_048)
    encoder = StepEncoder(folder, read_prm(folder))
    (layout,) = encoder.layouts(encoder.prompt("1 + 3?"), ["First, 3.", "Then 4."], 512)
    assert rows == [list(layout.ids)] * MIN_HELD_OUT

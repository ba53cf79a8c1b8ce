from collections.abc import Callable
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from submission.gateway.frames import answer_frame, single_value
from submission.gateway.predict import in_range, make_predict
from submission.problems import MAX_PROBLEM_CHARS
from tests.examples import examples


def echo(identifier: str, text: str) -> int:
    assert isinstance(identifier, str) and isinstance(text, str)
    return len(text)


def predictor(answer: Callable[[str, str], Any] = echo) -> Callable[..., Any]:
    return make_predict(answer, 0, 99_999, 0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: pl.Series([value]),
        lambda value: pl.DataFrame({"x": [value]}),
        lambda value: pd.Series([value]),
        lambda value: pd.Series([value], index=[7]),
        lambda value: pd.DataFrame({"x": [value]}),
        lambda value: [value],
        lambda value: (value,),
        lambda value: value,
    ],
)
def test_reads_whatever_a_gateway_sends(wrap: Callable[[str], Any]) -> None:
    frame = predictor()(wrap("id7"), wrap("four"))
    assert frame.to_dicts() == [{"id": "id7", "answer": 4}]
    assert frame.schema["answer"] == pl.Int64


def test_a_third_argument_is_ignored() -> None:
    assert predictor()(pl.Series(["i"]), pl.Series(["four"]), pl.Series([99]))["answer"][0] == 4
    assert predictor()(id_=pl.Series(["i"]), problem=pl.Series(["four"]))["answer"][0] == 4


@pytest.mark.parametrize(
    "named",
    [
        {"problem": "four", "id": "i"},
        {"answer": 9, "problem": "four", "id_": "i"},
        {"problem": pl.Series(["four"]), "row": pl.Series(["i"])},
    ],
)
def test_names_have_no_order(named: dict[str, Any]) -> None:
    assert predictor()(**named).to_dicts() == [{"id": "i", "answer": 4}]


@pytest.mark.parametrize("library", [pl, pd])
def test_columns_may_come_in_any_order_and_in_one_frame(library: Any) -> None:
    frame = library.DataFrame({"answer": [9], "problem": ["four"], "id": ["i"]})
    for arguments in ([frame], [frame[name] for name in frame.columns]):
        assert predictor()(*arguments).to_dicts() == [{"id": "i", "answer": 4}]


def test_a_statement_that_cannot_be_read_keeps_its_id() -> None:
    assert predictor()(pl.Series(["i"]), pl.Series([])).to_dicts() == [{"id": "i", "answer": 0}]


@pytest.mark.parametrize("identifier", [17, -3, 2**62, 0.5, True, "17"])
def test_an_id_goes_back_as_it_came(identifier: Any) -> None:
    sent = pl.Series("id", [identifier])
    assert predictor()(sent, "four")["id"].equals(sent, check_dtypes=True)


def test_is_a_plain_named_function() -> None:
    predict = predictor()
    assert predict.__name__ == "predict" and not hasattr(predict, "__self__")


@pytest.mark.parametrize(
    "value", [-1, 100_000, 2.5, "x", None, float("nan"), float("inf"), 10**30, [], object(), "7.5"]
)
def test_whatever_comes_out_of_range_becomes_the_default(value: Any) -> None:
    assert predictor(lambda *_: value)("i", "p").to_dicts() == [{"id": "i", "answer": 0}]


@pytest.mark.parametrize("value", [7, 7.0, True])
def test_whole_values_within_the_range_stay(value: Any) -> None:
    frame = predictor(lambda *_: value)("i", "p")
    assert frame["answer"][0] == int(value) and frame.schema["answer"] == pl.Int64


def test_an_exception_becomes_the_default() -> None:
    def broken(*_: str) -> int:
        raise RecursionError("deep")

    assert predictor(broken)("i", "p").to_dicts() == [{"id": "i", "answer": 0}]


@pytest.mark.parametrize("identifier", [{"a": [1, 2]}, [[1, 2]], 10**30, True, 2.5, None, "\ud800", b"\xff"])
def test_a_strange_id_still_gets_its_row(identifier: Any) -> None:
    frame = predictor()(identifier, "four")
    assert frame.shape == (1, 2) and frame["answer"][0] == 4


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_id_that_cannot_even_be_shown_still_gets_its_row() -> None:
    assert predictor()(Unspeakable(), "four")["answer"].to_list() == [0]


def test_an_exit_is_no_way_out() -> None:
    def leave(*_: str) -> int:
        raise SystemExit(3)

    assert predictor(leave)("i", "p").to_dicts() == [{"id": "i", "answer": 0}]


def test_a_huge_problem_is_cut() -> None:
    assert (
        predictor(lambda _, text: len(text) // 10)("i", "x" * 10_000_000)["answer"][0]
        == MAX_PROBLEM_CHARS // 10
    )


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(junk, max_size=4), junk)
@settings(max_examples=examples(400), deadline=None)
def test_never_raises_and_always_one_row(arguments: list[Any], value: Any) -> None:
    frame = predictor(lambda *_: value)(*arguments)
    assert frame.shape == (1, 2) and frame.schema["answer"] == pl.Int64
    assert 0 <= frame["answer"][0] <= 99_999


def test_pandas_answers_where_polars_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    frame = answer_frame("i", 5)
    assert isinstance(frame, pd.DataFrame)
    assert frame.to_dict("records") == [{"id": "i", "answer": 5}] and frame["answer"].dtype == "int64"


def test_single_value_keeps_plain_values() -> None:
    assert single_value(None) is None
    assert single_value(pl.Series([5])) == 5
    assert single_value(b"bytes") == "bytes"
    assert in_range(5, 0, 9, 0) == 5

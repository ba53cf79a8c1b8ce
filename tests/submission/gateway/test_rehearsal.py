import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from submission.gateway.rehearsal import Gateway, GatewayError, Row, judge, start_server
from submission.problems import Problem
from submission.settings import ContestRules

PROBLEMS = [Problem("a", "What is 1 + 1?", 2), Problem("b", "What is 2 + 2?", 4)]
Play = Callable[..., list[Row]]


@pytest.fixture(scope="module")
def gateways() -> Iterator[list[Gateway]]:
    """Closed together at the end: gRPC takes a fifth of a second to close one that has just connected."""
    opened: list[Gateway] = []
    yield opened
    for gateway in opened:
        gateway.close()


@pytest.fixture
def play(tmp_path: Path, gateways: list[Gateway]) -> Iterator[Play]:
    servers = []

    def run(
        predict: Callable[..., Any], call_seconds: float = 60.0, problems: list[Problem] = PROBLEMS
    ) -> list[Row]:
        socket = tmp_path / "s"
        servers.append(start_server(predict, socket))
        gateway = Gateway(socket, ContestRules(), call_seconds=call_seconds, alive=lambda: "")
        gateways.append(gateway)
        return list(gateway.run(problems))

    yield run
    for server in servers:
        server.stop(None)


def replying(reply: Any) -> Callable[..., Any]:
    """Replies so to every problem, with its id where a frame has none."""

    def predict(id_: pl.Series, _: pl.Series) -> Any:
        if isinstance(reply, pl.DataFrame) and "id" not in reply.columns:
            return reply.with_columns(id=pl.lit(id_[0]))
        if isinstance(reply, pd.DataFrame) and "id" not in reply.columns:
            return reply.assign(id=id_[0])
        return reply

    return predict


def test_both_libraries_are_accepted(play: Play) -> None:
    assert [row.answer for row in play(replying(pl.DataFrame({"answer": [5]})))] == [5, 5]
    assert [row.answer for row in play(replying(pd.DataFrame({"answer": [5]})))] == [5, 5]


def test_predict_gets_one_series_a_column(play: Play) -> None:
    seen = []

    def predict(id_: pl.Series, problem: pl.Series) -> pl.DataFrame:
        seen.append((id_.to_list(), problem.to_list()))
        return pl.DataFrame({"id": id_, "answer": [1]})

    play(predict)
    assert seen == [(["a"], ["What is 1 + 1?"]), (["b"], ["What is 2 + 2?"])]


@pytest.mark.parametrize("value", [123_456_789, -3, 2.5, "7"])
def test_accepted_in_silence_but_lost(play: Play, value: Any) -> None:
    rows = play(replying(pl.DataFrame({"answer": [value]})))
    assert [row.answer for row in rows] == [value, value] and all(row.lost for row in rows)


def test_a_missing_answer_column_is_lost(play: Play) -> None:
    assert all(row.lost for row in play(replying(pl.DataFrame({"result": [7]}))))


@pytest.mark.parametrize(
    "reply",
    [
        7,
        None,
        pl.DataFrame({"answer": [1, 2]}),
        pl.DataFrame({"answer": []}),
        pl.DataFrame({"answer": [10**30]}),
        pd.DataFrame({"answer": [1, "x"]}),
        pl.DataFrame({"answer": [None]}),
        pl.DataFrame({"id": ["other"], "answer": [1]}),
        pl.Series("answer", [1]),
    ],
)
def test_replies_that_end_the_whole_run(play: Play, reply: Any) -> None:
    with pytest.raises(GatewayError):
        play(replying(reply))


def test_an_exception_ends_the_whole_run(play: Play) -> None:
    def predict(*_: Any) -> Any:
        raise RuntimeError("boom")

    with pytest.raises(GatewayError, match="SERVER_RAISED_EXCEPTION"):
        play(predict)


def test_the_first_call_is_exempt_from_the_deadline(play: Play) -> None:
    def predict(id_: pl.Series, _: pl.Series) -> pl.DataFrame:
        time.sleep(0.6 if id_[0] == "a" else 0)
        return pl.DataFrame({"id": id_, "answer": [1]})

    assert len(play(predict, call_seconds=0.3)) == 2


def test_a_later_slow_call_ends_the_run(play: Play) -> None:
    def predict(id_: pl.Series, _: pl.Series) -> pl.DataFrame:
        time.sleep(0.9 if id_[0] == "b" else 0)
        return pl.DataFrame({"id": id_, "answer": [1]})

    with pytest.raises(GatewayError, match="GRPC_DEADLINE_EXCEEDED"):
        play(predict, call_seconds=0.3)


def test_a_server_that_died_before_its_first_call(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "none", ContestRules(), call_seconds=1, alive=lambda: "exit code 9")
    with pytest.raises(GatewayError, match="SERVER_NEVER_STARTED: exit code 9"):
        list(gateway.run(PROBLEMS))
    gateway.close()


def test_a_server_that_never_listens(tmp_path: Path) -> None:
    gateway = Gateway(
        tmp_path / "none", ContestRules(), call_seconds=1, alive=lambda: "", startup_seconds=0.5
    )
    with pytest.raises(GatewayError, match="SERVER_NEVER_STARTED: no connection"):
        list(gateway.run(PROBLEMS))
    gateway.close()


def test_judge_takes_a_good_reply_as_it_is() -> None:
    assert judge(pl.DataFrame({"id": ["x"], "answer": [99_999]}), "x", 0, 99_999) == (99_999, "")

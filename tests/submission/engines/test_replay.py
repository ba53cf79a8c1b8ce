import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from submission.answers import contest_answer
from submission.engines.base import EngineError, Message, SampleRequest, Sampling
from submission.engines.replay import ReplayEngine, load_recording, write_recording
from tests.submission.virtual import boxed, run_virtual


async def play(engine: ReplayEngine, attempt: int = 0) -> tuple[str, int, float]:
    text, tokens = "", 0
    async for chunk in engine.generate(SampleRequest("r", [1], Sampling(), "p", attempt)):
        text += chunk.text
        tokens += len(chunk.token_ids)
    return text, tokens, asyncio.get_running_loop().time()


def test_plays_text_tokens_and_time() -> None:
    engine = ReplayEngine({"p": [boxed(5, 80)]}, speed=2)
    assert run_virtual(play(engine))[0] == ("thinking... \\boxed{5}", 80, 40)


def test_wraps_round_and_raises_recorded_errors() -> None:
    engine = ReplayEngine({"p": [boxed(1, 1), boxed(2, 1, error="dead")]})
    assert run_virtual(play(engine, 2))[0][0].endswith("{1}")
    with pytest.raises(EngineError, match="dead"):
        run_virtual(play(engine, 1))
    with pytest.raises(EngineError, match="no sample"):
        run_virtual(play(ReplayEngine({})))


def test_abort_ends_a_sample_without_a_reason() -> None:
    async def aborted() -> tuple[str, int, float]:
        engine = ReplayEngine({"p": [boxed(1, 80)]})
        task = asyncio.create_task(play(engine))
        await asyncio.sleep(25)
        await engine.abort("r")
        return await task

    # Two of eight chunks are out at 20 s; the third finds the abort.
    assert run_virtual(aborted())[0][1:] == (20, 30)


def test_a_written_recording_reads_back(tmp_path: Path) -> None:
    recording = {"p": [boxed(1, 2), boxed(3, 4)], "q": [boxed(5, 6)]}
    write_recording(tmp_path / "r.jsonl", recording)
    assert load_recording(tmp_path / "r.jsonl") == recording


@pytest.mark.parametrize("name", ["gpt-oss-120b_cot_aimo3.parquet", "gpt-oss-20b_tir_aimo3.parquet"])
def test_real_recorded_attempts_keep_their_answers(shared_data: Callable[[str], Path], name: str) -> None:
    import polars as pl

    path = shared_data(f"samples/{name}")
    recording = load_recording(path)
    table = pl.read_parquet(path)
    assert sum(map(len, recording.values())) == len(table) == 80
    expected: dict[str, list[int | None]] = {}
    for row in table.iter_rows(named=True):
        value = row["answer"]
        number = int(value) if value is not None and value.lstrip("-").isdigit() else None
        expected.setdefault(row["problem_id"], []).append(number)
    for problem, samples in recording.items():
        got = [contest_answer(sample.text, 0, 99_999) for sample in samples]
        in_range = [n if n is not None and 0 <= n <= 99_999 else None for n in expected[problem]]
        assert got == in_range


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", "", "expected .jsonl"),
        ("r.csv", "problem_id,answer\na,1\n", "lacks"),
        ("none.csv", None, "not exist"),
    ],
)
def test_bad_recordings(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_recording(tmp_path / name)


def test_speed_must_be_positive() -> None:
    with pytest.raises(ValueError, match="speed 0"):
        ReplayEngine({}, speed=0)
    engine = ReplayEngine({})
    assert engine.encode_chat([Message("user", "12345678")]) == [0] * 3

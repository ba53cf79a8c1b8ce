import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faulty import FACTORY, ByteEncoder
from submission.contest import Contest
from submission.degrade import Serving
from submission.engines import Engine
from submission.engines.replay import ReplayEngine, write_recording
from submission.engines.supervised import SupervisedEngine
from submission.engines.transformers_engine import TransformersEngine
from submission.journal import AnswerLine, FaultLine, Journal, read_journal
from submission.reporting.unanswered import no_model_answered
from submission.settings import ContestSettings, EngineSettings, SupervisionSettings
from submission.supervision import make_supervised


def make(tmp_path: Path, model: Path | None, bundle: Path | None = None, **sections: Any) -> Engine:
    settings = ContestSettings.parse({"engine": {"kind": "transformers"}, **sections}, "a test")
    return make_supervised(
        settings,
        model,
        log=tmp_path / "log",
        seconds_left=lambda: 1.0,
        on_fault=lambda _what, _details: None,
        bundle=bundle,
    )


def test_a_checkpoint_is_supervised_unless_it_shall_not_be(tmp_path: Path) -> None:
    assert isinstance(make(tmp_path, tmp_path), SupervisedEngine)
    assert isinstance(make(tmp_path, tmp_path, supervision={"enabled": False}), TransformersEngine)
    with pytest.raises(ValueError, match="needs a model"):
        make(tmp_path, None)


def test_recorded_samples_are_not(tmp_path: Path) -> None:
    recording = tmp_path / "r.jsonl"
    write_recording(recording, {})
    assert isinstance(make(tmp_path, None, engine={"kind": "replay", "recording": recording}), ReplayEngine)


def test_the_second_model_lies_in_the_bundle(tmp_path: Path) -> None:
    second = {"supervision": {"second_model": "second"}}
    with pytest.raises(ValueError, match=r"second_model .*second: no config.json"):
        make(tmp_path, tmp_path, tmp_path, **second)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "config.json").touch()
    engine = make(tmp_path, tmp_path, tmp_path, **second)
    assert isinstance(engine, SupervisedEngine) and engine.serving.second == tmp_path / "second"


def play(folder: Path, *identifiers: str) -> tuple[list[int], list[AnswerLine], list[str]]:
    """Answers of a contest whose engine fails as the problems' ids say; its journal's answers and faults."""
    settings = ContestSettings.parse(
        {"solver": {"num_agents": 3, "max_tokens": 60, "policy": "fixed"}}, "a test"
    )
    begun = time.monotonic()

    def elapsed() -> float:
        return time.monotonic() - begun

    async def contest() -> list[int]:
        journal = Journal(folder / "journal.jsonl")
        engine = SupervisedEngine(
            Serving(folder, EngineSettings(kind="transformers", max_model_len=500, max_num_seqs=1)),
            SupervisionSettings(),
            log=folder / "engine.log",
            seconds_left=lambda: settings.rules.time_limit - elapsed(),
            on_fault=lambda *fault: whole.note_fault(*fault),  # noqa: PLW0108 - it is made after this
            factory=FACTORY,
            encoder=ByteEncoder,
        )
        whole = Contest(settings, engine, journal, elapsed)
        answers = [await whole.answer(name, f"What is {number}?") for number, name in enumerate(identifiers)]
        await whole.close()
        return answers

    answers = asyncio.run(contest())
    content = read_journal(folder / "journal.jsonl")
    return answers, content.of(AnswerLine), [line.what for line in content.of(FaultLine)]


@pytest.mark.slow
def test_a_contest_goes_on_over_the_death_of_its_engine(tmp_path: Path) -> None:
    answers, lines, faults = play(tmp_path, "quiet", "exit@30")
    assert answers == [7, 7]
    assert [line.source for line in lines] == ["vote", "vote"]
    assert faults == ["engine failed"]
    assert no_model_answered(tmp_path / "journal.jsonl") == ""


@pytest.mark.slow
def test_a_contest_without_any_engine_answers_at_once_and_is_marked(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("exit\n" * 9)
    answers, lines, faults = play(tmp_path, "a", "b")
    assert answers == [0, 0] and [line.source for line in lines] == ["default", "default"]
    assert lines[1].seconds < 1
    assert faults[-2:] == ["engine given up", "engine did not start"]
    mark = no_model_answered(tmp_path / "journal.jsonl")
    assert mark.startswith("NO MODEL ANSWERED: all 2 answers are the default; first of") and "did not" in mark

"""Contests with a verifier and a selector under every policy: asked, not asked, killed and continued."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from submission.agents.team import Team, load_team
from submission.contest import Contest, read_known
from submission.engines.base import Chunk, Message, SampleRequest
from submission.engines.replay import Recorded, ReplayEngine
from submission.gateway.rehearsal import Row
from submission.journal import AnswerLine, Journal, SampleLine, read_journal
from submission.problems import Problem
from submission.reporting.insight import insight
from submission.reporting.results import collect
from submission.settings import BudgetSettings, ContestRules, ContestSettings, SolverSettings
from tests.submission.virtual import boxed, run_virtual

POLICIES = ("value", "agree", "adaptive", "deepconf", "fixed")
every_policy = pytest.mark.parametrize("policy", POLICIES)
TIE = (5, 7, 5, 7)
READING = 4.0
"""Seconds of an opinion."""
QUESTIONS = 3
"""Of a tie: two answers to verify, one pick."""


def mixed() -> Team:
    """The shipped team, without tools: no sandbox on a virtual clock."""
    roles = tuple(role.model_copy(update={"tools": "none"}) for role in load_team("mixed").roles)
    return Team(roles=roles)


def make_settings(policy: Any, team: Team | None = None, **changes: Any) -> ContestSettings:
    rules = {"time_limit": 1_000.0, "expected_problems": 1, **changes.pop("rules", {})}
    return ContestSettings(
        rules=ContestRules(**rules),
        budget=BudgetSettings(reserve=0, restart=0, floor=0, cap=changes.pop("cap", 400.0)),
        solver=SolverSettings(policy=policy, **{"num_agents": 4, "agree": 3, **changes}),
        team=mixed() if team is None else team,
    )


class Panel(ReplayEngine):
    """Solvers write what is recorded; the verifier confirms 7 and nothing else, the selector picks it."""

    def __init__(
        self, recording: dict[str, list[Recorded]], reading: float = READING, marker: Path | None = None
    ) -> None:
        super().__init__(recording)
        self._reading = reading
        self._marker = marker
        self._prompts: list[str] = []
        self.asked: list[str] = []

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        self._prompts.append(messages[-1].content)
        return [len(self._prompts) - 1]

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        prompt = self._prompts[request.prompt[0]]
        if "Is the final answer right?" in prompt:
            said = "correct" if "(answer 7)" in prompt else "incorrect"
        elif "Which solution's" in prompt:
            parts = prompt.split("### Solution ")[1:]
            said = str(next(place for place, part in enumerate(parts) if "{7}" in part))
        else:
            async for chunk in super().generate(request):
                yield chunk
            return
        self.asked.append(prompt)
        if self._marker is not None and len(self.asked) == QUESTIONS:
            self._marker.touch()
        await asyncio.sleep(self._reading)
        yield Chunk(f"\\boxed{{{said}}}", (1, 2), (-0.1, -0.1), "stop")


def play(
    folder: Path, answers: Sequence[int], settings: ContestSettings, *, until: float = 1e9, name: str = "j"
) -> tuple[int | None, Panel, Path, float]:
    """One problem; cut short at `until`, its journal is what a killed process would have left.

    Each sample takes ten seconds. Returns the answer, the engine, the journal and the seconds it took.
    """
    path = folder / name
    known = read_known(path, 0, 99_999)
    engine = Panel({"p": [boxed(answer, 10.0) for answer in answers]})

    async def run() -> int | None:
        loop = asyncio.get_running_loop()
        contest = Contest(settings, engine, Journal(path), lambda: known.elapsed + loop.time(), known)
        contest.start()
        task = asyncio.create_task(contest.answer("p", "What?"))
        done, _ = await asyncio.wait({task}, timeout=until)
        left = path.read_bytes()
        if not done:
            task.cancel()
            await asyncio.wait({task})
        await contest.close()
        if not done:
            path.write_bytes(left)
        return task.result() if done else None

    answer, seconds = run_virtual(run())
    return answer, engine, path, seconds


def ask(settings: ContestSettings, engine: Panel, journal: Path | None = None) -> tuple[int, float]:
    """The answer to one problem, and the seconds it took."""

    async def run() -> int:
        contest = Contest(settings, engine, Journal(journal), asyncio.get_running_loop().time)
        answer = await contest.answer("p", "What?")
        await contest.close()
        return answer

    return run_virtual(run())


def solvers() -> Team:
    return Team(roles=mixed().of("solve"))


@every_policy
def test_a_split_vote_is_read_again(tmp_path: Path, policy: str) -> None:
    settings = make_settings(policy)
    alone, _, _, sampled = play(tmp_path, TIE, make_settings(policy, solvers()), name="alone")
    answer, engine, path, seconds = play(tmp_path, TIE, settings)
    assert (alone, answer) == (5, 7)
    assert len(engine.asked) == QUESTIONS
    assert seconds == pytest.approx(sampled + READING)
    (line,) = read_journal(path).of(AnswerLine)
    assert (line.plain, line.rule, line.samples) == (5, "majority with 3 opinions", 4)
    # Both opinions together are the greatest weight, 1: two votes of a half each and one, against two.
    assert line.totals == [[7, 2.0], [5, 1.0]]
    assert [(one.role, one.answer, one.right) for one in line.opinions] == [
        ("verifier", 5, False),
        ("verifier", 7, True),
        ("selector", 7, True),
    ]
    rows, asked = [Row("p", 7, "", seconds)], [Problem("p", "What?", 7)]
    found = insight(collect(asked, rows, path, name="n", time_limit=1e3, elapsed=seconds))
    assert (found.opinions, found.chosen, found.plain) == (3, 1, 0)


@every_policy
@pytest.mark.parametrize("answers", [(5, 5, 5, 5), (5, 5, 5, 7), (5, 5, 5, 5, 7, 7, 7)])
def test_early_agreement_is_not_read_again(tmp_path: Path, policy: str, answers: tuple[int, ...]) -> None:
    """All agree; or opinions could not change it; or the samples that would make it close never come."""
    alone = play(tmp_path, answers, make_settings(policy, solvers(), max_attempts=4), name="alone")
    found = play(tmp_path, answers, make_settings(policy, max_attempts=4))
    assert found[1].asked == []
    assert (found[0], found[3]) == (alone[0], alone[3]) == (5, found[3])


def test_a_narrow_agreement_is_read_while_the_rest_runs_on(tmp_path: Path) -> None:
    """Four of seven agree, which the settings take for enough; the eighth is cut off once it was read."""

    def agreed(*answers: int) -> tuple[int, Panel, float, str]:
        recorded = [boxed(answer, 1.0 + place) for place, answer in enumerate(answers)]
        engine = Panel({"p": [*recorded, boxed(5, 300.0)]})
        path = tmp_path / str(len(answers))
        settings = make_settings("agree", num_agents=len(answers) + 1, agree=4)

        answer, seconds = ask(settings, engine, path)
        lines = read_journal(path)
        assert [one.finish for one in lines.of(SampleLine)] == ["stop"] * len(answers) + ["aborted"]
        return answer, engine, seconds, lines.of(AnswerLine)[0].stopped

    answer, engine, seconds, stopped = agreed(5, 7, 5, 7, 5, 7, 5)
    assert (answer, len(engine.asked), seconds, stopped) == (7, QUESTIONS, 7 + READING, "agree")
    # Four against two: two opinions draw level, and more samples are for the first.
    answer, engine, seconds, stopped = agreed(5, 7, 5, 7, 5, 5)
    assert (answer, engine.asked, seconds, stopped) == (5, [], 6, "agree")


@every_policy
def test_a_problem_without_time_is_not_read_again(tmp_path: Path, policy: str) -> None:
    ends = play(tmp_path, TIE, make_settings(policy, solvers()), name="alone")[3]
    answer, engine, path, seconds = play(tmp_path, TIE, make_settings(policy, cap=ends + 9.9))
    assert (answer, engine.asked, seconds <= ends + 10) == (5, [], True)
    assert read_journal(path).of(AnswerLine)[0].opinions == []
    assert len(play(tmp_path, TIE, make_settings(policy, cap=ends + 50), name="more")[1].asked) == QUESTIONS


@every_policy
def test_a_contest_without_time_is_not_read_again(tmp_path: Path, policy: str) -> None:
    """With 200 problems to come in 1,000 seconds, ten of them are worth more than a tenth of a half."""
    _, engine, path, _ = play(tmp_path, TIE, make_settings(policy, rules={"expected_problems": 200}))
    assert engine.asked == []
    assert read_journal(path).of(AnswerLine)[0].stopped in {"all finished", "not worth the time", "agree"}


@every_policy
def test_a_late_opinion_does_not_hold_the_answer(tmp_path: Path, policy: str) -> None:
    ends = play(tmp_path, TIE, make_settings(policy, solvers()), name="alone")[3]
    slow = make_settings(policy, cap=ends + 12)
    engine = Panel({"p": [boxed(answer, 10.0) for answer in TIE]}, reading=1_000.0)

    answer, seconds = ask(slow, engine)
    assert (answer, len(engine.asked)) == (5, QUESTIONS)
    assert seconds <= ends + 14


@every_policy
def test_killed_while_it_is_read_it_is_read_again(tmp_path: Path, policy: str) -> None:
    settings = make_settings(policy)
    whole = play(tmp_path, TIE, settings, name="whole")
    ends = whole[3] - READING
    cut, engine, path, _ = play(tmp_path, TIE, settings, until=ends + READING / 2)
    assert (cut, len(engine.asked)) == (None, QUESTIONS)
    assert read_journal(path).of(AnswerLine) == []
    answer, engine, path, seconds = play(tmp_path, TIE, settings)
    # No sample is drawn again.
    assert (answer, len(engine.asked)) == (7, QUESTIONS)
    assert seconds == pytest.approx(READING)
    journal = read_journal(path)
    assert len(journal.of(SampleLine)) == 4
    (line,) = journal.of(AnswerLine)
    assert (line.totals, len(line.opinions)) == ([[7, 2.0], [5, 1.0]], 3)


def _doomed(folder: str) -> None:
    """Reads for a minute, and will not live to the end of it."""

    recording = {"p": [boxed(answer, 0.01) for answer in TIE]}
    engine = Panel(recording, 60.0, Path(folder) / "reading")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        journal = Journal(Path(folder) / "j")
        contest = Contest(make_settings("agree"), engine, journal, lambda: loop.time() - begun)
        await contest.answer("p", "What?")

    asyncio.run(run())


def test_a_real_kill_while_it_is_read(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_doomed, args=(str(tmp_path),))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "reading").exists():
        assert process.is_alive(), process.exitcode
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    answer, engine, path, _ = play(tmp_path, TIE, make_settings("agree"))
    assert (answer, len(engine.asked), len(read_journal(path).of(SampleLine))) == (7, QUESTIONS, 4)

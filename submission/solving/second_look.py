"""Verifiers and selectors: agents that read what the solvers wrote, where the votes are split.

A verifier sees one answer's best write-up and says whether it is right; a selector sees one write-up an
answer, side by side, and picks (GenSelect: Toshniwal et al. 2025, arXiv 2507.17797). Texts are cut to what
the context holds, from their beginning: the conclusion stands at the end.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from submission.agents.prompts import clipped, selector_chat, verifier_chat
from submission.agents.team import Role, Team
from submission.agents.tool_writer import Written
from submission.agents.verdicts import pick, verdict
from submission.solving.drawing import Asked, Drawer
from submission.solving.sample import Opinion, Sample
from submission.steps import write_up

log = logging.getLogger(__name__)

CHARS_PER_TOKEN = 3
"""Of a mathematical text, cautiously: what is cut too short is better than a prompt that does not fit."""
MOST_ANSWERS = 4
"""Answers that are looked at: those with the most votes."""
LONGEST = 16_000
"""Characters of all write-ups in a prompt: tokenizing it holds up the event loop."""


@dataclass(frozen=True)
class _Question:
    """One prompt, and which answer each possible reply means."""

    role: Role
    asked: Asked
    answers: tuple[int, ...]


def split(answers: Sequence[int | None]) -> list[int]:
    """The answers worth a second look, most votes first; empty where there are not two."""
    counts: dict[int, int] = {}
    for answer in answers:
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
    ranked = sorted(counts, key=lambda answer: -counts[answer])
    return ranked[:MOST_ANSWERS] if len(ranked) > 1 else []


class SecondLook:
    """Asks a team's verifiers and selectors about one problem's samples."""

    def __init__(self, drawer: Drawer, team: Team, key: str, problem: str) -> None:
        self._drawer = drawer
        self._team = team
        self._key = key
        self._problem = problem
        self._asked = 0

    async def ask(self, samples: Sequence[Sample], deadline: float) -> tuple[Opinion, ...]:
        """Every opinion that came before `deadline` (loop time); none where all answers agree."""
        questions = await self._questions(samples)
        if not questions:
            return ()
        tasks = [asyncio.create_task(self._answer(question)) for question in questions]
        left = deadline - asyncio.get_running_loop().time()
        try:
            done, late = await asyncio.wait(tasks, timeout=max(0.0, left))
        except asyncio.CancelledError:
            done, late = set(), set(tasks)
            raise
        finally:
            for task in tasks:
                task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
        return tuple(task.result() for task in tasks if task in done and _ended_well(task))

    async def _questions(self, samples: Sequence[Sample]) -> list[_Question]:
        answers = split([sample.answer for sample in samples])
        if not answers:
            return []
        best = [_best([sample for sample in samples if sample.answer == answer]) for answer in answers]
        found: list[_Question] = []
        for role in self._team.of("verify"):
            for answer, sample in zip(answers, best, strict=True):
                await asyncio.sleep(0)  # one prompt a turn of the loop
                text = clipped(write_up(sample.text), self._room(role, 1))
                asked = self._drawer.ask(role, verifier_chat(role, self._problem, text, answer))
                found += [_Question(role, asked, (answer,))] * role.share if isinstance(asked, Asked) else []
        for role in self._team.of("select"):
            for turn in range(role.share):
                await asyncio.sleep(0)
                # Each turn in another order: models favour places.
                order = [(place + turn) % len(answers) for place in range(len(answers))]
                texts = [clipped(write_up(best[place].text), self._room(role, len(order))) for place in order]
                asked = self._drawer.ask(role, selector_chat(role, self._problem, texts))
                if isinstance(asked, Asked):
                    found.append(_Question(role, asked, tuple(answers[place] for place in order)))
        return found

    def _room(self, role: Role, texts: int) -> int:
        """Characters that each of so many write-ups may have: half of the context, at most `LONGEST`."""
        allowance = role.max_tokens or self._drawer.settings.max_tokens
        context = self._drawer.engine.max_context
        tokens = max(context // 4, min(context // 2, context - allowance) - len(self._problem) // 2)
        return max(200, min(LONGEST, CHARS_PER_TOKEN * tokens) // texts)

    async def _answer(self, question: _Question) -> Opinion:
        self._asked += 1
        sample = Sample(attempt=10_000 + self._asked, role=question.role.name)
        await self._drawer.draw(sample, question.role, question.asked, self._key, Written())
        answer: int | None = question.answers[0]
        right: bool | None
        if question.role.task == "select":
            place = pick(sample.text, len(question.answers)) if sample.finish == "stop" else None
            answer = None if place is None else question.answers[place]
            right = None if place is None else True
        else:
            right = verdict(sample.text) if sample.finish == "stop" else None
        return Opinion(
            role=question.role.name,
            task="select" if question.role.task == "select" else "verify",
            answer=answer,
            right=right,
            tokens=sample.tokens,
            seconds=sample.seconds,
            text=sample.text,
        )


def _ended_well(task: "asyncio.Task[Opinion]") -> bool:
    """Whether there is an opinion; a mistake of ours in reading one costs that one alone."""
    if task.cancelled():
        return False
    if (fault := task.exception()) is not None:
        log.error("an opinion is lost", exc_info=fault)
    return fault is None


def _best(samples: Sequence[Sample]) -> Sample:
    """The sample that stands for an answer: the first that ended by itself, else the first."""
    return next((sample for sample in samples if sample.finish == "stop"), samples[0])

"""A whole contest: budget, journal, staff and the answers already known.

`Contest` is plain asyncio and takes its time from outside, so that it runs alike under the gateway and on
a virtual clock. It never raises out of `answer`, and never answers out of range.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submission.engines.base import Engine
from submission.journal import AnswerLine, Journal, JournalContent, ProblemLine, SampleLine, read_journal
from submission.ledger import Facts, Ledger
from submission.notes import answer_facts, sample_facts
from submission.prm.scorer import Scorer
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings
from submission.solving.sample import Sample
from submission.staff import Staff

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What an earlier process of this contest left in the journal.

    Args:
        answers: by problem key.
        elapsed: seconds of the contest that it spent.
        samples: of problems without an answer, by key: whole ones, which need not be drawn again.
        solving: seconds that the problems with an answer took.
    """

    answers: dict[str, int]
    elapsed: float
    samples: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    solving: float = 0.0


def problem_key(identifier: str, text: str) -> str:
    """Key of a problem across restarts: its id and its statement, since ids alone have been reused."""
    return hashlib.sha256(f"{identifier}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_known(path: Path, low: int, high: int) -> Known:
    """Answers (within `low`..`high`), whole samples and seconds spent, from a journal; nothing from a
    missing one.
    """
    content = read_journal(path)
    answers = {
        line.key: line.answer
        for line in content.of(AnswerLine)
        # A default answer is no knowledge: the problem deserves its time after a restart.
        if line.key and low <= line.answer <= high and line.source != "default"
    }
    samples = {key: found for key, found in _whole_samples(content, low, high).items() if key not in answers}
    elapsed = max((line.elapsed for line in content.lines), default=0.0)
    solving = sum(line.seconds for line in content.of(AnswerLine) if line.key in answers)
    return Known(answers, elapsed, samples, solving)


def _whole_samples(content: JournalContent, low: int, high: int) -> dict[str, tuple[Sample, ...]]:
    """By problem key, numbered anew in the order in which they ended."""
    key_of: dict[str, str] = {}
    found: dict[str, list[Sample]] = {}
    for line in content.lines:
        if isinstance(line, ProblemLine):
            key_of[line.id] = line.key
        elif isinstance(line, SampleLine) and line.finish in {"stop", "length"} and line.id in key_of:
            samples = found.setdefault(key_of[line.id], [])
            answer = line.answer if line.answer is not None and low <= line.answer <= high else None
            samples.append(
                Sample(
                    attempt=len(samples),
                    role=line.role,
                    text=line.text,
                    tokens=line.tokens,
                    tool_tokens=line.tool_tokens,
                    seconds=line.seconds,
                    answer=answer,
                    finish="stop" if line.finish == "stop" else "length",
                )
            )
    return {key: tuple(samples) for key, samples in found.items() if key}


class Contest:
    """Answers problems one after the other until the time is out.

    Args:
        settings: rules, budget, sampling, team.
        engine: not started yet; `start` does it.
        journal: gets one line a fact.
        elapsed: seconds since the contest began.
        known: what an earlier process had already found.
        scorer: a process reward model, not started; a contest whose scorer does not start goes on without.
        rule: how answers are chosen; the plain vote where no calibration has shown better.
    """

    def __init__(
        self,
        settings: ContestSettings,
        engine: Engine,
        journal: Journal,
        elapsed: Callable[[], float],
        known: Known | None = None,
        scorer: Scorer | None = None,
        rule: Rule = PLAIN,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._elapsed = elapsed
        self._known = dict(known.answers) if known else {}
        self._earlier = dict(known.samples) if known else {}
        self._loading: asyncio.Task[str] | None = None
        # Problems, not calls: a gateway whose connection broke asks once more, and what an earlier process
        # has answered is not among those to come.
        self._asked = set(self._known)
        self._solving = known.solving if known else 0.0
        rules, budget = settings.rules, settings.budget
        self._ledger = Ledger(
            time_limit=rules.time_limit,
            # A profile made for hours must leave something of a contest of minutes.
            reserve=min(budget.reserve, rules.time_limit / 10),
            restart=budget.restart,
            floor=budget.floor,
            cap=budget.cap,
            expected_problems=rules.expected_problems or None,
        )
        self._staff = Staff(settings, engine, scorer, rule, self.note_fault)

    def start(self) -> None:
        """Begin loading the engine behind whatever else goes on; call inside the running loop."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())

    async def _load(self) -> str:
        """Start the staff; returns the error, "" if it stands."""
        error = await self._staff.start()
        if not error:
            self._write("ready")
        return error

    async def answer(self, identifier: str, text: str) -> int:
        """Answer one problem. Never raises (but for cancellation) and never leaves the contest's range."""
        key = problem_key(identifier, text)
        self._asked.add(key)
        try:
            if key in self._known:
                self._write("answer", id=identifier, key=key, answer=self._known[key], source="journal")
                return self._known[key]
            return await self._solve(identifier, key, text)
        except Exception as error:
            log.exception("problem %s failed", identifier)
            self.note_fault("problem failed", f"{type(error).__name__}: {error}", identifier)
            # What was found before the fault counts.
            return self.fallback(identifier, text)

    async def _solve(self, identifier: str, key: str, text: str) -> int:
        self._write("problem", id=identifier, key=key)
        trouble = await self._ready()
        # Counted after loading: what the start took is everyone's loss, not the first problem's.
        facts = self._facts()
        seconds = 0.0 if trouble else self._ledger.problem_seconds(facts)
        self._write("budget", id=identifier, seconds=seconds)
        solution = await self._staff.solver.solve(
            identifier,
            text,
            seconds,
            on_sample=lambda sample: self._write("sample", id=identifier, **sample_facts(sample)),
            earlier=self._earlier.pop(key, ()),
            price=self._ledger.price(facts),
        )
        self._solving += solution.seconds
        if solution.source != "default":
            self._known[key] = solution.answer
        if solution.samples and all(sample.finish == "error" for sample in solution.samples):
            self.note_fault("every sample failed", solution.samples[0].error, identifier)
        self._write("answer", id=identifier, key=key, **answer_facts(solution, trouble))
        return solution.answer

    async def _ready(self) -> str:
        """Wait for the engine as long as there is time at all; returns what is wrong, "" if nothing."""
        self.start()
        assert self._loading is not None
        await asyncio.wait({self._loading}, timeout=self._ledger.available(self._facts()))
        return self._loading.result() if self._loading.done() else "the engine is still loading"

    def _facts(self) -> Facts:
        """What the ledger goes by, before the present problem is answered."""
        return Facts(
            elapsed=self._elapsed(),
            answered=max(0, len(self._asked) - 1),
            solving=self._solving,
            restarted=getattr(self._staff.engine, "starts", 1) > 1,
        )

    @property
    def loaded(self) -> bool:
        """Whether loading is over, well or not."""
        return self._loading is not None and self._loading.done()

    def fallback(self, identifier: str, text: str) -> int:
        """What is known of a problem without any work: an earlier answer, else the default."""
        return self._known.get(problem_key(identifier, text), self._settings.rules.default_answer)

    async def close(self) -> None:
        """End loading and the staff. The journal stays open-ended: see `submission.serve.end_journal`."""
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait({self._loading}, timeout=1.0)
        await self._staff.close()
        self._journal.close()

    def note_fault(self, what: str, error: str, identifier: str = "") -> None:
        """Write down what a reader of the report has to know."""
        self._write("fault", what=what, error=error, id=identifier)

    def _write(self, kind: str, **facts: Any) -> None:
        line = {"type": kind, "at": round(time.time(), 3), "elapsed": round(self._elapsed(), 3), **facts}
        self._journal.write(line)

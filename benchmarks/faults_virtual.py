"""Contests with faults on a virtual clock: hours in milliseconds, as many as one likes.

Everything that decides is the contest's own code: solver, policies, budget, journal, `predict`. Engine, time
and disk are played: engines that do not start, hang, slow down, break off, die and come back; disks that
fill; journals cut in mid-line; processes that are killed and started again; gateways that ask twice.
"""

import asyncio
import dataclasses
import math
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from submission.agents.team import load_team
from submission.clock import VirtualLoop
from submission.contest import Contest, read_known
from submission.engines.base import Chunk, EngineError, SampleRequest
from submission.engines.replay import Recorded, ReplayEngine
from submission.journal import Journal
from submission.selection.rule import Rule
from submission.settings import BudgetSettings, ContestRules, ContestSettings, SolverSettings

GRACE = 5.0
"""Seconds over a limit that letting go of samples and the scorer may take."""
ENGINE_FAULTS = ("none", "no start", "slow start", "dead", "dies", "hangs", "slow", "errors", "deaf", "nan")


@dataclass(frozen=True)
class Plan:
    """One contest to be, faults included; the same seed gives the same."""

    seed: int
    settings: ContestSettings
    recording: dict[str, list[Recorded]]
    engine: str
    disk: str
    killed_after: int
    """Problems after which the process is killed and started anew; -1: it is not."""
    repeated: bool
    team: str
    scorer: str


@dataclass
class Played:
    """What came of it: problems of the run that break a promise, empty where all was kept."""

    broken: list[str] = field(default_factory=list)
    answered: int = 0
    """Problems with an answer other than the default."""
    seconds: float = 0.0


def plan(seed: int) -> Plan:
    """A random contest with random faults."""
    random = Random(seed)
    count = random.choice([1, 2, 5, 10, 50])
    limit = random.choice([60.0, 600.0, 3_600.0, 17_400.0])
    typical = limit / count / random.choice([1, 4, 20])
    recording = {f"p{number}": _samples(random, typical) for number in range(count)}
    expected = random.choice([count, count, 0, max(1, count // 2), 2 * count])
    settings = ContestSettings(
        rules=ContestRules(time_limit=limit, expected_problems=expected),
        budget=BudgetSettings(
            reserve=random.choice([0.0, 10.0, 200.0]),
            floor=random.choice([0.0, 30.0, 240.0]),
            cap=random.choice([30.0, 900.0, 1e6]),
        ),
        solver=SolverSettings(
            num_agents=random.choice([1, 2, 8]),
            max_attempts=random.choice([None, 3, 16]),
            policy=random.choice(["value", "agree", "adaptive", "deepconf", "fixed"]),
            agree=random.choice([None, 2, 4]),
            last_number=random.random() < 0.3,
        ),
    )
    return Plan(
        seed=seed,
        settings=settings,
        recording=recording,
        engine=random.choice(ENGINE_FAULTS),
        disk=random.choice(["fine", "fine", "full", "torn"]),
        killed_after=random.choice([-1, -1, 0, random.randrange(count + 1)]),
        repeated=random.random() < 0.2,
        team=random.choice(["solo", "solo", "mixed"]),
        scorer=random.choice(["none", "none", "fine", "nan", "raises", "hangs"]),
    )


def _samples(random: Random, typical: float) -> list[Recorded]:
    right = random.randrange(1_000)
    samples = []
    for _ in range(random.choice([1, 4, 8])):
        answer: Any = right if random.random() < 0.5 else random.choice([-5, 10**9, "x", 7, 123_456])
        text = f"So \\boxed{{{answer}}}." if random.random() < 0.9 else "I do not know."
        samples.append(Recorded(text, random.randrange(1, 3_000), random.expovariate(1 / typical)))
    return samples


class FaultyEngine(ReplayEngine):
    """Recorded samples from an engine that fails in one way."""

    def __init__(self, plan: Plan, random: Random) -> None:
        super().__init__(plan.recording)
        self._fault = plan.engine
        self._random = random
        self._limit = plan.settings.rules.time_limit
        self._drawn = 0

    async def start(self) -> None:
        if self._fault == "no start":
            raise self._random.choice([EngineError("no GPU"), MemoryError(), SystemExit(1), OSError("gone")])
        if self._fault == "slow start":
            await asyncio.sleep(self._random.choice([0.3, 2.0]) * self._limit)

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        self._drawn += 1
        if self._fault == "dead" or (self._fault == "dies" and 5 <= self._drawn < 20):
            raise EngineError("the engine is dead")
        if self._fault == "errors" and self._random.random() < 0.5:
            raise self._random.choice([EngineError("lost"), MemoryError(), ValueError("odd"), KeyError("k")])
        if self._fault == "deaf" and self._random.random() < 0.3:
            try:
                await asyncio.sleep(10 * self._limit)
            except asyncio.CancelledError:
                await asyncio.sleep(10 * self._limit)
        slower = {"slow": 10.0, "hangs": math.inf}.get(self._fault, 1.0)
        hung = self._fault == "hangs" and self._random.random() < 0.5
        async for chunk in super().generate(request):
            if hung:
                await asyncio.sleep(10 * self._limit)
            if slower == 10.0:
                await asyncio.sleep(self._random.random() * self._limit / 100)
            logprobs = (math.nan if self._fault == "nan" else -0.5,) * len(chunk.token_ids)
            yield dataclasses.replace(chunk, logprobs=logprobs)


class FaultyScorer:
    """Step scores that are fine, or not."""

    def __init__(self, fault: str, random: Random) -> None:
        self._fault = fault
        self._random = random

    async def start(self) -> None:
        """Fails in a third of the runs in which it is to raise."""
        if self._fault == "raises" and self._random.random() < 0.3:
            raise EngineError("no PRM")

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:  # noqa: ARG002
        """One step a completion."""
        if self._fault == "raises":
            raise RuntimeError("no scores")
        await asyncio.sleep(1e9 if self._fault == "hangs" else 0.5)
        score = math.nan if self._fault == "nan" else self._random.random()
        return [[score] for _ in completions]

    async def score(self, problem: str, completions: Sequence[str]) -> list[float]:
        """The same."""
        return [steps[0] for steps in await self.score_steps(problem, completions)]

    async def close(self) -> None:
        """Nothing to free."""


def play(plan: Plan) -> Played:
    """Play one contest and hold it to its promises."""
    loop = VirtualLoop()
    try:
        with tempfile.TemporaryDirectory(prefix="aimo-faults-") as folder:
            return loop.run_until_complete(_play(plan, Path(folder) / "journal.jsonl"))
    finally:
        # What was deaf to its end sits it out: on this clock that costs nothing.
        if left := asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _play(plan: Plan, path: Path) -> Played:
    played = Played()
    answers: dict[str, int] = {}
    names = list(plan.recording)
    cut = plan.killed_after if plan.killed_after >= 0 else len(names)
    random = Random(plan.seed + 1)
    await _process(plan, path, names[:cut], answers, played, random)
    if cut < len(names) or plan.killed_after >= 0:
        kept = dict(answers)
        if plan.disk == "torn":
            tear(path, random)
        if plan.disk in {"torn", "full"}:
            kept = {}
        # The gateway of a contest that is started again asks for everything again.
        await _process(plan, path, names, answers, played, random)
        default = plan.settings.rules.default_answer
        played.broken += [
            f"{name}: {kept[name]} became {answers[name]}"
            for name in kept
            if kept[name] not in (default, answers[name])
        ]
    played.answered = sum(answer != plan.settings.rules.default_answer for answer in answers.values())
    return played


async def _process(
    plan: Plan, path: Path, names: Sequence[str], answers: dict[str, int], played: Played, random: Random
) -> None:
    """One life of the server, as long as its gateway asks for these problems."""
    loop = asyncio.get_running_loop()
    rules = plan.settings.rules
    known = read_known(path, rules.answer_min, rules.answer_max)
    offset = max(0.0, known.elapsed - loop.time())
    journal = Journal(Path("/dev/full") if plan.disk == "full" else path)
    scorer = None if plan.scorer == "none" else FaultyScorer(plan.scorer, random)
    settings = plan.settings.model_copy(update={"team": _team(plan.team)})
    rule = Rule(method="prm") if scorer is not None else Rule()
    contest = Contest(
        settings, FaultyEngine(plan, random), journal, lambda: loop.time() + offset, known, scorer, rule
    )
    contest.start()
    for name in names:
        for again in (False, True) if plan.repeated else (False,):
            answer = await contest.answer(name, f"Problem {name}?")
            _check(plan, name, answer, played)
            if again and answers[name] not in (answer, rules.default_answer):
                played.broken.append(f"{name}: repeated, {answers[name]} became {answer}")
            answers[name] = answer
    spent = loop.time() + offset
    played.seconds = max(played.seconds, spent)
    if spent > rules.time_limit + GRACE * len(names):
        played.broken.append(f"ended after {spent:.0f} of {rules.time_limit:.0f} s")
    closing = asyncio.ensure_future(contest.close())
    await asyncio.wait({closing}, timeout=60.0)


def tear(path: Path, random: Random) -> None:
    """Cut a journal somewhere in its last lines, as a power cut does."""
    if path.exists():
        data = path.read_bytes()
        path.write_bytes(data[: max(0, len(data) - random.randrange(1, 200))])


def _team(name: str) -> Any:
    team = load_team(name)
    # The sandbox is a real process, which a virtual clock cannot wait for.
    roles = tuple(role.model_copy(update={"tools": "none"}) for role in team.roles)
    return team.model_copy(update={"roles": roles})


def _check(plan: Plan, name: str, answer: Any, played: Played) -> None:
    rules = plan.settings.rules
    if type(answer) is not int or not rules.answer_min <= answer <= rules.answer_max:
        played.broken.append(f"{name}: {answer!r} is no answer")

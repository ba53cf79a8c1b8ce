"""One contest from pools of recorded samples: the contest's own code, on a virtual clock."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

from benchmarks.simulator.engine import RecordedScorer, SimulatedEngine
from benchmarks.simulator.opinions import Heard, Opinions, played_team
from benchmarks.simulator.pool import RIGHT, PoolProblem, PoolSample
from benchmarks.simulator.throughput import Throughput
from submission.clock import VirtualLoop
from submission.contest import Contest
from submission.journal import Journal
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings

Order = Literal["shuffled", "recorded", "hard-first", "easy-first"]
ORDERS: tuple[Order, ...] = get_args(Order)
ANSWERS = 99_999
"""Greatest number that may stand for an answer."""


@dataclass(frozen=True)
class Entry:
    """A problem as a contest asks it: its pool, a name of its own, the samples in order of their attempt."""

    problem: PoolProblem
    name: str
    samples: tuple[PoolSample, ...]


@dataclass(frozen=True)
class Machine:
    """What the contest runs on.

    Args:
        throughput: of the engine.
        slower: how many times as long everything takes that the engine does.
        load_seconds: for the engine to load.
        between: seconds from an answer to the next problem.
        prm_speed: tokens a second of the process reward model, on the recorded machine.
        heard: opinions of verifiers and selectors; without any, the solvers play alone.
    """

    throughput: Throughput
    slower: float = 1.0
    load_seconds: float = 0.0
    between: float = 0.0
    prm_speed: float = math.inf
    heard: tuple[Heard, ...] = ()

    def rate(self, running: int) -> float:
        """Seconds of work alone on the recorded engine that each of `running` samples gets in a second."""
        return self.throughput.speed(running) / self.throughput.speed(1) / self.slower


@dataclass(frozen=True)
class Answered:
    """One problem: its pool's id, whether it was right, where the answer came from, and what it took.

    `at` is seconds of the contest when it was answered, `seconds` those of the problem.
    """

    problem: str
    right: bool
    source: str
    samples: int
    tokens: int
    seconds: float
    at: float


@dataclass(frozen=True)
class Simulated:
    """A whole contest: its problems in the order in which they were asked, seconds at the last answer."""

    problems: tuple[Answered, ...]
    seconds: float

    @property
    def right(self) -> int:
        """Right answers."""
        return sum(one.right for one in self.problems)

    @property
    def unanswered(self) -> int:
        """Problems that got the default answer."""
        return sum(one.source == "default" for one in self.problems)


def draw_contest(
    problems: Sequence[PoolProblem], size: int, attempts: int, order: Order, seed: str
) -> list[Entry]:
    """One contest of `size` problems.

    Problems come equally often, as far as `size` allows. Attempts are drawn without replacement; when a pool
    is used up, it is drawn from anew. The same seed gives the same problems with the same first attempts,
    whatever `attempts` and `order` are.

    Args:
        problems: pools, at least one.
        size: problems of the contest.
        attempts: samples that may be asked for at each.
        order: of the problems; by the share of right samples in the pool where it says hard or easy.
        seed: of all draws.
    """
    random = Random(seed)
    rounds, rest = divmod(size, len(problems))
    chosen = [*range(len(problems))] * rounds + random.sample(range(len(problems)), rest)
    entries = []
    for copy, index in enumerate(chosen):
        problem = problems[index]
        name = f"{problem.id}#{copy // len(problems)}"
        own = Random(f"{seed}/{name}")
        drawn: list[PoolSample] = []
        while len(drawn) < attempts:
            drawn += own.sample(problem.samples, len(problem.samples))
        entries.append(Entry(problem, name, tuple(drawn[:attempts])))
    if order != "recorded":
        # Ties of the other orders too must not fall by the recording's own.
        random.shuffle(entries)
    if order in ("hard-first", "easy-first"):
        entries.sort(key=lambda entry: entry.problem.pass_rate, reverse=order == "easy-first")
    return entries


def simulate(
    entries: Sequence[Entry], settings: ContestSettings, machine: Machine, rule: Rule = PLAIN
) -> Simulated:
    """Play one contest.

    Args:
        entries: its problems, in the order in which they are asked; names are unique.
        settings: of the contest; see `playable`.
        machine: what it runs on.
        rule: how answers are chosen.
    """
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_play(entries, _settings(settings, entries, machine), machine, rule))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _settings(settings: ContestSettings, entries: Sequence[Entry], machine: Machine) -> ContestSettings:
    return playable(settings, len(entries), opinions=bool(machine.heard))


def playable(settings: ContestSettings, problems: int, *, opinions: bool = False) -> ContestSettings:
    """The settings, less what no recording can play: tools, a swap on the GPU.

    The number of problems is announced; answers are numbers that stand for the recorded ones. Verifiers and
    selectors stay where `opinions` of theirs are recorded.
    """
    rules = settings.rules.model_copy(
        update={
            "expected_problems": problems,
            "answer_min": 0,
            "answer_max": ANSWERS,
            "default_answer": 0,
        }
    )
    return settings.model_copy(
        update={
            "rules": rules,
            "team": played_team(settings.team, opinions=opinions),
            "prm": settings.prm.model_copy(update={"swap": False}),
            # The texts are not the model's own: no number in them may vote.
            "solver": settings.solver.model_copy(update={"last_number": False}),
        }
    )


class _Facts(Journal):
    """A journal that keeps its answers' facts, and writes nothing."""

    def __init__(self) -> None:
        super().__init__(None)
        self.answers: dict[str, Mapping[str, Any]] = {}

    def write(self, record: Mapping[str, Any]) -> None:
        if record["type"] == "answer":
            self.answers[record["id"]] = record


async def _play(
    entries: Sequence[Entry], settings: ContestSettings, machine: Machine, rule: Rule
) -> Simulated:
    loop = asyncio.get_running_loop()
    samples = {entry.name: entry.samples for entry in entries}
    assert len(samples) == len(entries), "names are unique"
    engine = SimulatedEngine(
        samples,
        machine.rate,
        places=settings.engine.max_num_seqs,
        load_seconds=machine.load_seconds,
        opinion=_opinion(entries, machine) if machine.heard else None,
    )
    scored = any(sample.steps for found in samples.values() for sample in found)
    scorer = RecordedScorer(samples, machine.slower / machine.prm_speed) if scored else None
    journal = _Facts()
    contest = Contest(settings, engine, journal, loop.time, None, scorer, rule)
    contest.start()
    answered = []
    try:
        for number, entry in enumerate(entries):
            if number:
                await asyncio.sleep(machine.between)
            answer = await contest.answer(entry.name, f"Recorded problem {entry.name}")
            answered.append(_answered(entry, answer, journal.answers[entry.name]))
    finally:
        await contest.close()
    return Simulated(tuple(answered), answered[-1].at if answered else 0.0)


def _opinion(entries: Sequence[Entry], machine: Machine) -> Callable[[str, str, int], PoolSample]:
    """What the simulated engine is told of verifiers and selectors."""
    pools = {entry.name: entry.problem for entry in entries}
    opinions = Opinions(machine.heard, {problem.id: problem.codes for problem in pools.values()})

    def opinion(name: str, prompt: str, attempt: int) -> PoolSample:
        text, one = opinions.say(pools[name].id, prompt, attempt)
        return PoolSample(text, None, tokens=one.tokens, work=one.work(machine.throughput))

    return opinion


def _answered(entry: Entry, answer: int, facts: Mapping[str, Any]) -> Answered:
    return Answered(
        problem=entry.problem.id,
        right=answer == RIGHT,
        source=facts["source"],
        samples=facts["samples"],
        tokens=facts["tokens"],
        seconds=facts["seconds"],
        at=facts["elapsed"],
    )

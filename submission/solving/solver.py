"""One problem: samples side by side, a policy that says when it is enough, an answer always.

Samples are aborted as soon as the policy stops or the time is out. What a cut-off sample had already put in a
box still votes where the time was out; without any vote the default answer is given and marked.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean

from submission.agents.prompts import solver_chat
from submission.agents.sandbox_runner import Seats
from submission.agents.team import Role, Team
from submission.agents.tool_writer import Written
from submission.engines.base import Engine
from submission.policies import Policy, Running, Situation
from submission.prm.turns import Turns
from submission.selection.candidate import Candidate
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestRules, SolverSettings
from submission.solving.aside import Aside
from submission.solving.choosing import Choice, choose, swayable, undecided
from submission.solving.deciding import make_policy
from submission.solving.drawing import Asked, Drawer
from submission.solving.late_scoring import LateScoring
from submission.solving.sample import Opinion, Sample, Solution, Source
from submission.solving.scoring import Scoring, StepScorer
from submission.solving.second_look import SecondLook, split

log = logging.getLogger(__name__)

ABORT_SECONDS = 1.0
"""How long cut-off samples may take to let go of the engine before they are left to themselves."""
TICK_SECONDS = 5.0
"""The policy is asked at least this often while samples run."""
SILENT = 3
"""Problems in a row without a score, after which the scorer is not asked again: each waited for it."""
BROKE_OFF = "broke off"

OnSample = Callable[[Sample], None]


class Solver:
    """Solves problems with one engine under one contest's rules.

    Args:
        engine: started.
        settings: sampling, and the policy.
        rules: range of answers.
        team: who draws and checks; by default one step-by-step solver.
        seats: in the sandbox, for roles that run code; a role without one writes without tools.
        scorer: a started process reward model; `Turns` where it shares the GPU with the engine.
        rule: how the answer is chosen; only what a calibration has shown to help may differ from the vote.
    """

    def __init__(
        self,
        engine: Engine,
        settings: SolverSettings,
        rules: ContestRules,
        *,
        team: Team | None = None,
        seats: Seats | None = None,
        scorer: StepScorer | Turns | None = None,
        rule: Rule = PLAIN,
    ) -> None:
        self.settings = settings
        self.rules = rules
        self.team = team or Team()
        self.scorer = scorer
        self.rule = rule
        self.policy: Policy = make_policy(settings)
        self.drawer = Drawer(engine, settings, rules, seats)
        self._silent = 0
        self._ended: list[float] = []
        """Seconds of the samples of earlier problems that ended by themselves."""

    async def solve(
        self,
        key: str,
        text: str,
        seconds: float,
        on_sample: OnSample = lambda _: None,
        *,
        earlier: Sequence[Sample] = (),
        price: float = math.nan,
    ) -> Solution:
        """Answer one problem within `seconds` from now.

        Args:
            key: the problem's id: the engine's requests and recordings go by it.
            text: the problem's statement.
            seconds: time for this problem; with none left the default answer comes at once.
            on_sample: called in this loop as each sample ends.
            earlier: finished samples of this problem that a killed process left in its journal.
            price: what a second is worth elsewhere, in right answers (`submission.ledger`).

        Engine failures cost the samples they hit and nothing else; whatever else goes wrong, what has
        finished by then still votes.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        typical = fmean(self._ended) if self._ended else math.nan
        run = _Run(self, key, text, on_sample, earlier, (price, typical))
        stopped = "no time" if seconds <= 0 else run.prepare()
        if not stopped:
            try:
                stopped = await run.until_decided(begun + seconds)
            except Exception as error:
                log.exception("sampling of %s broke off", key)
                stopped = f"{BROKE_OFF}: {type(error).__name__}: {error}"
            finally:
                await run.abort_rest()
            try:
                await run.finish_scores(begun + seconds)
            except Exception:
                log.exception("no scores of %s", key)
            self._mind(run.silent)
        self._ended += [sample.seconds for sample in run.samples if sample.ended]
        return run.solution(loop.time() - begun, stopped)

    def _mind(self, silent: bool | None) -> None:
        """Do without a scorer that says nothing, problem after problem."""
        if silent is None:
            return
        self._silent = self._silent + 1 if silent else 0
        if self._silent >= SILENT:
            log.error("no score came in %d problems: the PRM is not asked again", self._silent)
            self.scorer = None


class _Run:
    """The samples of one problem while they run."""

    def __init__(
        self,
        solver: Solver,
        key: str,
        text: str,
        on_sample: OnSample,
        earlier: Sequence[Sample],
        known: tuple[float, float],
    ) -> None:
        self._solver = solver
        self._key = key
        self._text = text
        self._on_sample = on_sample
        self._price, self._typical = known
        self._asked: dict[str, Asked] = {}
        self._turns: Iterator[Role] = iter(())
        self.samples: list[Sample] = list(earlier)
        self._finished: list[Sample] = list(earlier)
        self._written: dict[int, Written] = {}
        self._tasks: dict[asyncio.Task[None], Sample] = {}
        self._look: SecondLook | None = None
        self._opinions: tuple[Opinion, ...] = ()
        self._aside = Aside()
        self._scoring = self._make_scoring(solver.scorer)

    def _make_scoring(self, scorer: StepScorer | Turns | None) -> Scoring | LateScoring | None:
        if isinstance(scorer, Turns):
            return LateScoring(scorer, self._text, self._undecided)
        return None if scorer is None else Scoring(scorer, self._text)

    def _undecided(self, samples: Sequence[Sample]) -> bool:
        solver = self._solver
        return undecided(_voting(samples), solver.rule, self._opinions, solver.settings.opinion_votes)

    def prepare(self) -> str:
        """Render the prompts. Returns why the problem cannot be sampled, "" if it can."""
        if not self._text.strip():
            return "empty problem"
        solver = self._solver
        why = ""
        for role in solver.team.of("solve"):
            asked = solver.drawer.ask(role, solver_chat(role, solver.settings.system_prompt, self._text))
            if isinstance(asked, str):
                why = asked
            else:
                self._asked[role.name] = asked
        if not self._asked:
            return why
        # A role whose prompt does not fit leaves its turns to the others.
        self._turns = (role for role in solver.team.turns("solve") if role.name in self._asked)
        if len(solver.team.roles) > len(solver.team.of("solve")):
            self._look = SecondLook(solver.drawer, solver.team, self._key, self._text)
        for sample in self._finished:
            next(self._turns)
            self._score(sample)
        return ""

    async def until_decided(self, deadline: float) -> str:
        """Do what the policy says until it stops or loop time `deadline` comes; returns why it stopped."""
        loop = asyncio.get_running_loop()
        while True:
            situation = self._situation(deadline - loop.time())
            # A policy that looks ahead may take a tenth of a second.
            decision = await self._aside.do(partial(self._solver.policy, situation))
            if decision.stop:
                return decision.stop
            for task, sample in self._tasks.items():
                if sample.attempt in decision.abort:
                    task.cancel()
            for _ in range(min(decision.run, situation.free + len(decision.abort))):
                self._launch()
            if decision.verify and self._look is not None:
                await self._ask_again(deadline)
                continue
            if not self._tasks:
                return "the policy waits for nothing"
            left = deadline - loop.time()
            await asyncio.wait(
                self._tasks, timeout=min(left, TICK_SECONDS), return_when=asyncio.FIRST_COMPLETED
            )
            self._gather()

    def _situation(self, left: float) -> Situation:
        running = [sample for sample in self._tasks.values() if sample.finish == "running"]
        settings = self._solver.settings
        return Situation(
            finished=tuple(sample.candidate() for sample in self._finished),
            running=tuple(self._running(sample) for sample in running),
            aborted=len(self.samples) - len(self._finished) - len(running),
            max_attempts=max(settings.attempts, len(self.samples)),
            concurrency=settings.num_agents,
            seconds_left=max(0.0, left),
            typical_seconds=self._typical,
            price=self._price,
            verifier_seconds=self._verifier_seconds(),
        )

    def _running(self, sample: Sample) -> Running:
        written = self._written[sample.attempt]
        now = asyncio.get_running_loop().time()
        return Running(sample.attempt, len(written.ids), now - sample.begun)

    def _verifier_seconds(self) -> float:
        """What a second look would take: about as long as a sample that came to an answer.

        Infinite where there is nobody to ask, or whatever is said the answer stays.
        """
        solver = self._solver
        looked = [] if self._look is None else split([sample.answer for sample in self._finished])
        votes = solver.settings.opinion_votes
        if not looked or not swayable(_voting(self._finished), solver.rule, looked, solver.team, votes):
            return math.inf
        return fmean([sample.seconds for sample in self._finished if sample.answer is not None])

    async def _ask_again(self, deadline: float) -> None:
        assert self._look is not None
        look, self._look = self._look, None
        try:
            self._opinions = await look.ask(self._finished, deadline)
        except Exception:
            log.exception("no opinions on %s", self._key)
        self._gather()

    def _launch(self) -> None:
        role = next(self._turns)
        sample = Sample(attempt=len(self.samples), role=role.name)
        sample.begun = asyncio.get_running_loop().time()
        self.samples.append(sample)
        written = self._written[sample.attempt] = Written()
        asked = self._asked[role.name]
        draw = self._solver.drawer.draw(sample, role, asked, self._key, written)
        self._tasks[asyncio.create_task(draw)] = sample

    def _gather(self) -> None:
        """Take in what has ended, in order of start where several have."""
        for task in [task for task in self._tasks if task.done()]:
            sample = self._tasks.pop(task)
            if task.cancelled():
                self._tell(sample)
                continue
            # Errors are kept in the sample; what comes up here is a mistake of ours.
            if (fault := task.exception()) is not None:
                log.error("attempt %d of %s is lost", sample.attempt, self._key, exc_info=fault)
                sample.finish, sample.error = "error", f"{type(fault).__name__}: {fault}"
            self._finished.append(sample)
            self._tell(sample)
            self._score(sample)

    def _tell(self, sample: Sample) -> None:
        try:
            self._on_sample(sample)
        except Exception:
            log.exception("attempt %d of %s is not written down", sample.attempt, self._key)

    def _score(self, sample: Sample) -> None:
        if self._scoring is not None:
            self._scoring.add(sample)

    async def abort_rest(self) -> None:
        """End what still runs; wait for it, but not for ever."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ABORT_SECONDS)
        self._gather()
        for sample in self._tasks.values():  # deaf to the abort: what it wrote so far is all there will be
            self._solver.drawer.read(sample, self._written[sample.attempt], "aborted")
            self._tell(sample)
        self._tasks.clear()

    async def finish_scores(self, deadline: float) -> None:
        """Wait for the scores of what has finished, as long as the problem's time lasts."""
        if self._scoring is not None:
            await self._scoring.finish(deadline - asyncio.get_running_loop().time())

    @property
    def silent(self) -> bool | None:
        """Whether a scorer that was asked gave no score in time; None where none was asked, or by turns."""
        if not isinstance(self._scoring, Scoring) or not (self._scoring.fault or self._scoring.seconds):
            return None
        return not self._scoring.seconds

    def solution(self, seconds: float, stopped: str) -> Solution:
        """Count the votes; when the time ran out, boxes of cut-off samples as well.

        The quicker sample comes first, as among samples that begin together, whatever the waves in which a
        policy had them drawn: it is who wins a tie.
        """
        voting = sorted(self._finished, key=lambda sample: sample.seconds)
        if stopped == "time out" or stopped.startswith(BROKE_OFF):
            ended = {sample.attempt for sample in self._finished}
            voting += [sample for sample in self.samples if sample.attempt not in ended]
        solver = self._solver
        candidates = [sample.candidate() for sample in voting]
        try:
            choice = choose(candidates, solver.rule, self._opinions, solver.settings.opinion_votes)
        except Exception:
            log.exception("the rule failed on %s: the plain vote decides", self._key)
            choice = choose(candidates, PLAIN)
        return Solution(
            answer=solver.rules.default_answer if choice.answer is None else choice.answer,
            source=self._source(choice),
            votes=choice.votes,
            samples=tuple(self.samples),
            seconds=seconds,
            stopped=stopped,
            plain=choice.plain,
            rule=choice.rule,
            totals=choice.totals,
            prm_means=choice.prm_means,
            opinions=self._opinions,
            turn=self._scoring.turn if isinstance(self._scoring, LateScoring) else None,
            scoring=self._scoring.seconds if isinstance(self._scoring, Scoring) else 0.0,
        )

    def _source(self, choice: Choice) -> Source:
        if choice.answer is None:
            return "default"
        voted = any(sample.answer is not None for sample in self._finished)
        return "vote" if voted else "partial"


def _voting(samples: Sequence[Sample]) -> list[Candidate]:
    """As they vote: the quicker first, which wins a tie."""
    return [sample.candidate() for sample in sorted(samples, key=lambda sample: sample.seconds)]

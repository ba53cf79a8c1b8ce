"""What verifiers and selectors said in recorded contests, and what they would say of other samples.

Of an answer of which a role said something in this problem, it says that again; of others it says what it
said of right and of wrong answers anywhere in the recording. A selector that has the right answer before it
picks it as often as it did; a wrong pick is any wrong one. An opinion takes the recorded seconds, with as
much company on the engine as it had among the opinions asked for at the same time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.run.gathering import gather
from benchmarks.simulator.pool import RIGHT
from benchmarks.simulator.recording import Taken
from benchmarks.simulator.throughput import Throughput
from submission.agents.team import Role, Team
from submission.journal import AnswerLine, read_journal
from submission.settings import ContestSettings

_VERIFY = re.compile(r"verify (\S+) (\d+)\n")
_SELECT = re.compile(r"select (\S+)\n")
_SOLUTION = re.compile(r"### Solution (\d+)\n\n[^\n]*?\\boxed\{(\d+)\}")
PROMPTS = {
    "verify": "verify {name} {{answer}}\n{{problem}}\n{{candidate}}",
    "select": "select {name}\n{{candidates}}\n{{problem}}",
}
"""With these the simulated engine is asked, and knows whom and about what."""


@dataclass(frozen=True)
class Heard:
    """One recorded opinion.

    Args:
        problem: its id.
        role: who said it.
        task: "verify" or "select".
        answer: as it was spelled: what was judged, or what was picked; None for no pick.
        about: whether that answer is right.
        possible: whether the right answer was among those voted for: a selector could have picked it.
        said: a verifier's verdict, None for none; of a selector whether it picked at all.
        tokens: of the opinion.
        seconds: that it took.
        company: opinions that were asked for at the same time, itself included.
    """

    problem: str
    role: str
    task: str
    answer: str | None
    about: bool
    possible: bool
    said: bool | None
    tokens: int
    seconds: float
    company: int

    def work(self, throughput: Throughput) -> float:
        """Seconds that it takes alone on the engine."""
        return self.seconds * throughput.speed(self.company) / throughput.speed(1)


def read_heard(folders: Sequence[Path], taken: Sequence[Taken]) -> list[Heard]:
    """The opinions in the journals of these runs; `taken` tells which answers are right."""
    right = {(one.problem, str(one.answer)) for one in taken if one.right}
    found: list[Heard] = []
    for folder in folders:
        journals = sorted(folder.glob("contests/*/submission.journal.jsonl"))
        sets = {journal: journal.parent.name.rpartition("-")[0] for journal in journals}
        for journal, name in sets.items():
            prefix = f"{name}/" if len(set(sets.values())) > 1 else ""
            for problem in gather(read_journal(journal)).problems.values():
                if problem.answer is not None:
                    found += _heard(prefix + problem.id, problem.answer, right)
    return found


def _heard(problem: str, line: AnswerLine, right: set[tuple[str, str]]) -> Iterator[Heard]:
    possible = any((problem, str(answer)) in right for answer, _ in line.votes)
    for one in line.opinions:
        answer = None if one.answer is None else str(one.answer)
        yield Heard(
            problem=problem,
            role=one.role,
            task=one.task,
            answer=answer,
            about=answer is not None and (problem, answer) in right,
            possible=possible,
            said=one.right,
            tokens=one.tokens,
            seconds=one.seconds,
            company=len(line.opinions),
        )


def asks(settings: ContestSettings) -> tuple[Role, ...]:
    """The roles besides the solvers that any policy may ask; none where opinions count for nothing."""
    if not settings.solver.opinion_votes:
        return ()
    return (*settings.team.of("verify"), *settings.team.of("select"))


def require_heard(settings: ContestSettings, heard: Sequence[Heard]) -> None:
    """Refuse a contest that would ask somebody of whom nothing is recorded.

    Raises:
        ValueError: it names the role, and the ways out.
    """
    for role in asks(settings):
        if not any(one.role == role.name and one.task == role.task for one in heard):
            raise ValueError(
                f"the team's {role.name!r} ({role.task}) may be asked, and the recordings hold no opinion of "
                "it: add a folder of contests in which it was asked, or --without-opinions plays the solvers "
                "alone"
            )


def played_team(team: Team, *, opinions: bool) -> Team:
    """The team without tools, its prompts as the simulated engine reads them; or its solvers alone."""
    solvers = [role.model_copy(update={"tools": "none"}) for role in team.of("solve")]
    if not opinions:
        return Team(roles=tuple(solvers))
    others = [
        role.model_copy(
            update={
                "tools": "none",
                "system_prompt": None,
                "user_prompt": PROMPTS[role.task].format(name=role.name),
            }
        )
        for role in (*team.of("verify"), *team.of("select"))
    ]
    return Team(roles=(*solvers, *others))


class Opinions:
    """Says what was said.

    Args:
        heard: at least one of every role that may be asked.
        codes: of each problem, the number that stands for each spelled answer.
        seed: of the draws.
    """

    def __init__(
        self, heard: Sequence[Heard], codes: Mapping[str, Mapping[str, int]], seed: str = ""
    ) -> None:
        self._heard = heard
        self._codes = codes
        self._seed = seed

    def say(self, problem: str, prompt: str, attempt: int) -> tuple[str, Heard]:
        """The text of the opinion that a prompt of `PROMPTS` asks for, and whose time it takes.

        Args:
            problem: its pool's id.
            prompt: whole.
            attempt: distinguishes the questions of one problem.
        """
        random = Random(f"{self._seed}/{problem}/{attempt}")
        if asked := _VERIFY.search(prompt):
            one = self._verdict(random, problem, asked[1], int(asked[2]))
            words = {True: "\\boxed{correct}", False: "\\boxed{incorrect}", None: "I cannot tell."}
            return words[one.said], one
        asked = _SELECT.search(prompt)
        assert asked is not None, "one of `PROMPTS`"
        answers = [int(code) for _, code in _SOLUTION.findall(prompt)]
        return self._pick(random, problem, asked[1], answers)

    def _verdict(self, random: Random, problem: str, role: str, answer: int) -> Heard:
        said = [one for one in self._heard if one.role == role and one.task == "verify"]
        codes = self._codes.get(problem, {})
        own = [one for one in said if one.problem == problem and codes.get(one.answer or "") == answer]
        alike = [one for one in said if one.about == (answer == RIGHT)]
        # Where it never judged a right (a wrong) answer, its verdicts on the others are all that is known.
        return random.choice(own or alike or said)

    def _pick(self, random: Random, problem: str, role: str, answers: Sequence[int]) -> tuple[str, Heard]:
        said = [one for one in self._heard if one.role == role and one.task == "select"]
        codes = self._codes.get(problem, {})
        own = [one for one in said if one.problem == problem and codes.get(one.answer or "", -1) in answers]
        alike = [one for one in said if one.possible == (RIGHT in answers)]
        one = random.choice(own or alike or said)
        if one.answer is None:
            return "None of them.", one
        if own:
            return f"\\boxed{{{answers.index(codes[one.answer])}}}", one
        wrong = [place for place, answer in enumerate(answers) if answer != RIGHT]
        picks_right = RIGHT in answers and (one.about or not wrong)
        place = answers.index(RIGHT) if picks_right else random.choice(wrong or [0])
        return f"\\boxed{{{place}}}", one

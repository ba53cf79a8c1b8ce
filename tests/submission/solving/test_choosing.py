"""Choosing by votes, scores and opinions; the second look; what a restart keeps."""

import math
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.agents.team import Role, Team, load_team
from submission.contest import Contest, problem_key, read_known
from submission.engines.base import Chunk, EngineError, Message, SampleRequest
from submission.engines.replay import ReplayEngine
from submission.journal import AnswerLine, Journal, SampleLine, read_journal
from submission.policies import Decision, Situation
from submission.selection.candidate import Candidate
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestRules, ContestSettings, SolverSettings
from submission.solving.choosing import choose, swayable
from submission.solving.deciding import guarded, make_policy
from submission.solving.sample import Opinion, Sample
from submission.solving.second_look import split
from submission.solving.solver import Solver
from tests.submission.virtual import boxed, run_virtual


def opinion(answer: int | None, right: bool | None, task: Any = "verify") -> Opinion:
    return Opinion("r", task, answer, right, 10, 1.0)


def candidates(*answers: int | None) -> list[Candidate]:
    return [Candidate(answer) for answer in answers]


def test_the_plain_vote_and_its_rule() -> None:
    choice = choose(candidates(5, 7, 7, None), PLAIN)
    assert (choice.answer, choice.plain, choice.rule) == (7, 7, "majority")
    assert choice.votes == ((7, 2), (5, 1))
    assert choose([], PLAIN).answer is None


def test_scores_count_only_where_a_rule_says_so() -> None:
    scored = [Candidate(5, steps=(0.9, 0.8)), Candidate(7, steps=(0.1,)), Candidate(7, steps=(0.1, 0.9))]
    assert choose(scored, PLAIN).answer == 7
    choice = choose(scored, Rule(method="prm"))
    assert (choice.answer, choice.plain) == (5, 7)
    assert choice.prm_means == {5: 0.8, 7: 0.1}


def test_opinions_are_votes() -> None:
    tied = candidates(5, 7)
    assert choose(tied, PLAIN).answer == 5
    assert choose(tied, PLAIN, [opinion(7, True, "select")]).answer == 7
    # Two of three verifiers for 7, one of three for 5: 1 + 2/3 against 1 + 1/3.
    said = [opinion(7, True), opinion(7, True), opinion(7, False)]
    said += [opinion(5, True), opinion(5, False), opinion(5, False)]
    choice = choose(tied, PLAIN, said)
    assert choice.answer == 7
    assert [round(total, 3) for _, total in choice.totals] == [1.667, 1.333]
    assert choose(tied, PLAIN, said, opinion_votes=0).answer == 5
    assert choose(tied, PLAIN, [opinion(None, None, "select"), opinion(7, None)]).answer == 5


def test_best_of_n_has_no_votes_that_opinions_could_add_to() -> None:
    scored = [Candidate(5, steps=(0.9,)), Candidate(7, steps=(0.1,))]
    choice = choose(scored, Rule(method="best_of_n"), [opinion(7, True, "select")])
    assert (choice.answer, choice.rule) == (5, "best_of_n (min)")


def test_one_opinion_does_not_beat_a_clear_majority() -> None:
    assert choose(candidates(5, 5, 5, 7), PLAIN, [opinion(7, True, "select")]).answer == 5


@given(st.lists(st.none() | st.integers(0, 3), max_size=8), st.sampled_from(["prm", "logprob", "entropy"]))
def test_without_scores_every_rule_is_the_vote(answers: list[int | None], method: Any) -> None:
    assert (
        choose(candidates(*answers), Rule(method=method)).answer == choose(candidates(*answers), PLAIN).answer
    )


def test_what_is_worth_a_second_look() -> None:
    assert split([1, None, 1]) == []
    assert split([1, 2, 2, None, 3, 4, 5]) == [2, 1, 3, 4]


V, S = "{problem} {candidate}", "{problem} {candidates}"


def panel(verifiers: Sequence[int], selectors: Sequence[int]) -> Team:
    """A solver, and verifiers and selectors with these shares."""
    checks = [Role(name=f"v{n}", task="verify", share=one, user_prompt=V) for n, one in enumerate(verifiers)]
    picks = [Role(name=f"s{n}", task="select", share=one, user_prompt=S) for n, one in enumerate(selectors)]
    return Team(roles=(Role(name="solver"), *checks, *picks))


@pytest.mark.parametrize(
    ("votes", "team", "rule", "opinion_votes", "could"),
    [
        ((5, 7), panel([1], []), PLAIN, 1.0, True),
        # One opinion draws level with two votes, and then more samples are for the first.
        ((5, 5, 7), panel([1], []), PLAIN, 1.0, False),
        ((5, 5, 7), panel([3], []), PLAIN, 1.0, False),  # all verifiers of an answer are worth one
        ((5, 5, 7), panel([1], [1]), PLAIN, 1.0, True),
        ((5, 5, 7), panel([], [2]), PLAIN, 1.0, True),
        ((5, 5, 5, 7), panel([1], [1]), PLAIN, 1.0, False),
        ((5, 5, 5, 7), panel([1], [1]), PLAIN, 1.5, True),
        ((5, 7), panel([1], [1]), PLAIN, 0.0, False),
        ((5, 7), panel([1], [1]), Rule(method="best_of_n"), 1.0, False),
        ((5, 7), panel([], []), PLAIN, 1.0, False),
    ],
)
def test_opinions_that_could_change_the_answer(
    votes: tuple[int, ...], team: Team, rule: Rule, opinion_votes: float, *, could: bool
) -> None:
    scored = [Candidate(answer, steps=(0.5,)) for answer in votes]
    assert swayable(scored, rule, split(votes), team, opinion_votes) is could


def test_a_weighted_vote_can_be_out_of_reach_of_opinions() -> None:
    close = [Candidate(5, steps=(0.9,)), Candidate(7, steps=(0.8,))]
    clear = [Candidate(5, steps=(0.99,)), Candidate(7, steps=(0.001,)), Candidate(7, steps=(0.001,))]
    rule = Rule(method="prm", temperature=1.0)
    team = panel([1], [])
    assert swayable(close, rule, [5, 7], team)
    # The mean of the three weights, which an opinion is worth, is a third of the first one's.
    assert not swayable(clear, rule, [7, 5], team)
    # In the plain vote 7 leads, and with one opinion 5 draws level and came first.
    assert swayable(clear, PLAIN, [7, 5], team)


@given(
    votes=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    verifiers=st.lists(st.integers(1, 2), max_size=2),
    selectors=st.lists(st.integers(1, 2), max_size=2),
    worth=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    said=st.randoms(use_true_random=False),
)
def test_where_unanimity_changes_nothing_no_opinions_do(
    votes: list[int], verifiers: list[int], selectors: list[int], worth: float, said: Any
) -> None:
    team, looked = panel(verifiers, selectors), split(votes)
    found = candidates(*votes)
    given_ = [
        opinion(answer, said.choice([True, False, None]))
        for role in team.of("verify")
        for answer in looked
        for _ in range(role.share)
    ]
    picks = [one for role in team.of("select") for one in [said.choice([*looked, None])] * role.share]
    given_ += [opinion(pick, None if pick is None else True, "select") for pick in picks]
    if choose(found, PLAIN, given_, worth).answer != choose(found, PLAIN).answer:
        assert swayable(found, PLAIN, looked, team, worth)


class Talking(ReplayEngine):
    """Solvers say what is recorded, verifiers and selectors what the test says, by the prompt's text."""

    def __init__(self, solutions: Sequence[str], replies: dict[str, str]) -> None:
        super().__init__({})
        self.solutions = solutions
        self.replies = replies
        self.asked: list[str] = []
        self._prompts: dict[int, str] = {}

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        number = len(self._prompts)
        self._prompts[number] = messages[-1].content
        return [number]

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        prompt = self._prompts[request.prompt[0]]
        self.asked.append(prompt)
        for mark, reply in self.replies.items():
            if prompt.startswith(mark):
                if reply == "lost":
                    raise EngineError("lost")
                yield Chunk(reply, (1, 2), (-0.1, -0.1), "stop")
                return
        text = self.solutions[request.attempt % len(self.solutions)]
        yield Chunk(text, (1,), (-0.5,), "stop")


TEAM = Team(
    roles=(
        Role(name="solver"),
        Role(name="checker", task="verify", user_prompt="VERIFY {answer} {problem} {candidate}"),
        Role(name="chooser", task="select", share=2, user_prompt="SELECT {problem} {candidates}"),
    )
)


def asks_once(situation: Situation) -> Decision:
    """Draws two, looks again, stops."""
    if not situation.finished:
        return Decision(run=2 - len(situation.running))
    if len(situation.finished) < 2:
        return Decision()
    if math.isfinite(situation.verifier_seconds):
        return Decision(verify=True)
    return Decision(stop="enough")


def solve(engine: ReplayEngine, team: Team = TEAM, policy: Any = asks_once, seconds: float = 100.0) -> Any:
    solver = Solver(engine, SolverSettings(num_agents=2), ContestRules(), team=team)
    solver.policy = policy
    return run_virtual(solver.solve("p", "What?", seconds))[0]


def test_verifiers_and_selectors_are_asked_where_votes_are_split() -> None:
    replies = {"VERIFY 5": "\\boxed{incorrect}", "VERIFY 7": "\\boxed{correct}", "SELECT": "\\boxed{1}"}
    engine = Talking(["I get \\boxed{5}", "I get \\boxed{7}"], replies)
    solution = solve(engine)
    # The verifiers are for 7; the selectors see the write-ups in two orders and always pick the second.
    assert [(one.task, one.answer, one.right) for one in solution.opinions] == [
        ("verify", 5, False),
        ("verify", 7, True),
        ("select", 7, True),
        ("select", 5, True),
    ]
    assert (solution.answer, solution.plain, solution.stopped) == (7, 5, "enough")
    assert "with 4 opinions" in solution.rule
    assert any("### Solution 0\n\nI get \\boxed{7}" in prompt for prompt in engine.asked)


def test_nobody_is_asked_where_all_agree() -> None:
    engine = Talking(["\\boxed{5}"], {})
    solution = solve(engine)
    assert (solution.answer, solution.opinions, len(engine.asked)) == (5, (), 2)


def test_an_opinion_that_fails_is_none() -> None:
    engine = Talking(["\\boxed{5}", "\\boxed{7}"], {"VERIFY": "lost", "SELECT": "I like both"})
    solution = solve(engine)
    assert solution.answer == 5
    assert [(one.answer, one.right) for one in solution.opinions] == [
        (5, None),
        (7, None),
        (None, None),
        (None, None),
    ]


def test_the_mixed_team_is_ready_to_work() -> None:
    engine = Talking(["\\boxed{5}", "\\boxed{7}"], {})
    solution = solve(engine, load_team("mixed"))
    assert solution.plain == 5
    assert {sample.role for sample in solution.samples} == {"coder", "solver"}
    assert {one.role for one in solution.opinions} == {"verifier", "selector"}


def test_a_policy_that_breaks_costs_nothing() -> None:
    def broken(situation: Situation) -> Decision:
        raise ZeroDivisionError

    assert solve(Talking(["\\boxed{5}"], {}), policy=guarded(broken)).answer == 5
    idle = solve(Talking(["\\boxed{5}"], {}), policy=lambda _: Decision())
    assert (idle.stopped, idle.source) == ("the policy waits for nothing", "default")


@pytest.mark.parametrize("name", ["value", "agree", "adaptive", "deepconf", "fixed"])
def test_every_policy_solves(name: Any) -> None:
    solver = Solver(
        ReplayEngine({"p": [boxed(7, 1), boxed(7, 2), boxed(5, 3), boxed(7, 4)]}),
        SolverSettings(num_agents=4, policy=name),
        ContestRules(),
    )
    solution, spent = run_virtual(solver.solve("p", "What?", 50))
    assert solution.answer == 7 and spent <= 10
    assert all(sample.finish in {"stop", "aborted"} for sample in solution.samples)


def test_aborted_by_the_policy_and_replaced() -> None:
    def impatient(situation: Situation) -> Decision:
        if not situation.finished and not situation.running:
            return Decision(run=1)
        late = tuple(run.attempt for run in situation.running if run.seconds > 8)
        if late and situation.aborted == 0:
            return Decision(abort=late, run=1)
        return Decision(stop="enough") if situation.finished else Decision()

    solver = Solver(
        ReplayEngine({"p": [boxed(1, 1000), boxed(2, 3)]}),
        SolverSettings(num_agents=1, max_attempts=2),
        ContestRules(),
    )
    solver.policy = impatient
    solution, spent = run_virtual(solver.solve("p", "What?", 100))
    assert (solution.answer, solution.stopped) == (2, "enough")
    assert [sample.finish for sample in solution.samples] == ["aborted", "stop"]
    assert spent <= 15


def test_default_policy_is_a_known_one() -> None:
    assert make_policy(SolverSettings())(Situation(seconds_left=0)).stop == "time out"


def test_a_restart_keeps_the_running_problems_samples(tmp_path: Path) -> None:
    """Killed after two of four samples: the next process counts them and draws the other two."""
    settings = ContestSettings(solver=SolverSettings(num_agents=4, agree=None))
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    recording = {"a": [boxed(1, 1), boxed(2, 1), boxed(2, 1), boxed(2, 1)]}
    for line in [
        {"type": "problem", "id": "a", "key": problem_key("a", "A?"), "elapsed": 5.0},
        {
            "type": "sample",
            "id": "a",
            "attempt": 0,
            "answer": 1,
            "finish": "stop",
            "tokens": 9,
            "role": "solver",
        },
        {
            "type": "sample",
            "id": "a",
            "attempt": 3,
            "answer": 1,
            "finish": "stop",
            "tokens": 9,
            "role": "solver",
        },
        {"type": "sample", "id": "a", "attempt": 1, "answer": 8, "finish": "aborted"},
    ]:
        journal.write(line)
    known = read_known(path, 0, 99_999)
    assert [sample.answer for sample in known.samples[problem_key("a", "A?")]] == [1, 1]
    loop_clock = lambda: 10.0  # noqa: E731 - the contest's clock, in one line
    contest = Contest(settings, ReplayEngine(recording), journal, loop_clock, known)

    async def play() -> int:
        contest.start()
        answer = await contest.answer("a", "A?")
        await contest.close()
        return answer

    # Attempts 2 and 3 of the recording say 2: a tie, which the first to come has.
    assert run_virtual(play())[0] == 1
    lines = read_journal(path)
    assert lines.of(AnswerLine)[-1].votes == [[1, 2], [2, 2]]
    assert len(lines.of(SampleLine)) == 5
    # Answered problems are known by their answers alone.
    assert read_known(path, 0, 99_999).samples == {}


def test_samples_become_candidates() -> None:
    sample = Sample(3, answer=5, tokens=7, finish="length", steps=(0.5,))
    candidate = sample.candidate()
    assert (candidate.answer, candidate.finished, candidate.steps) == (5, True, (0.5,))
    assert math.isnan(candidate.logprob)

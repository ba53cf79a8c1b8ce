import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from submission.contest import Contest
from submission.engines.replay import ReplayEngine
from submission.gateway.rehearsal import Row
from submission.journal import Journal
from submission.problems import Problem
from submission.reporting.report import write_report
from submission.reporting.results import collect
from submission.scoring import PrmScorer, check_prm
from submission.settings import ContestRules, ContestSettings, SolverSettings
from submission.solver import Solution, Solver
from submission.steps import split_steps
from submission.votes import leader
from tests.submission.virtual import boxed, run_virtual
from tests.tiny import make_tiny_checkpoint


def test_steps_are_paragraphs() -> None:
    assert split_steps("First.\nstill first\n\n  \n Second. \n\n\n\nThird.") == [
        "First.\nstill first",
        "Second.",
        "Third.",
    ]
    assert split_steps("one") == ["one"]
    assert split_steps("  ") == [""]


def test_scores_break_ties_and_nothing_else() -> None:
    assert leader([1, 2], {1: 0.2, 2: 0.9}) == 2
    assert leader([1, 1, 2], {1: 0.2, 2: 0.9}) == 1
    assert leader([1, 2, None], {1: 0.5}) == 1
    assert leader([1, 2], {}) == 1


class Fixed:
    """Scores by a table, or fails."""

    def __init__(self, values: dict[str, float] | None) -> None:
        self._values = values

    async def start(self) -> None:
        return

    async def score(self, problem: str, completions: Sequence[str]) -> list[float]:
        if self._values is None:
            raise RuntimeError("no scores today")
        return [next(value for mark, value in self._values.items() if mark in text) for text in completions]


def solve(values: dict[str, float] | None) -> Solution:
    engine = ReplayEngine({"p": [boxed(1, 1), boxed(2, 1)]})
    solver = Solver(engine, SolverSettings(num_agents=2, agree=None), ContestRules(), Fixed(values))
    return run_virtual(solver.solve("p", "What?", 10))[0]


def test_the_solver_asks_the_scorer_when_answers_differ() -> None:
    solution = solve({"{1}": 0.1, "{2}": 0.8})
    assert solution.answer == 2
    assert [sample.prm_score for sample in solution.samples] == [0.1, 0.8]


def test_the_journal_and_the_report_show_the_scores(tmp_path: Path) -> None:
    settings = ContestSettings(solver=SolverSettings(num_agents=2, agree=None))
    path = tmp_path / "j.jsonl"

    async def play() -> int:
        engine = ReplayEngine({"p": [boxed(1, 1), boxed(2, 1)]})
        clock = asyncio.get_running_loop().time
        scorer = Fixed({"{1}": 0.1, "{2}": 0.8})
        contest = Contest(settings, engine, Journal(path), clock, scorer=scorer)
        contest.start()
        answer = await contest.answer("p", "What?")
        assert contest.loaded
        await contest.close()
        return answer

    assert run_virtual(play())[0] == 2
    rows = [Row("p", 2, "", 1.0)]
    outcome = collect([Problem("p", "What?", 2)], rows, path, name="n", time_limit=9.0, elapsed=1.0)
    assert outcome.results[0].prm == ((1, 0.1), (2, 0.8))
    write_report(tmp_path / "r.html", outcome, settings)
    assert "PRM of 2: 0.800" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("values", [None, {"{1}": float("nan"), "{2}": float("nan")}])
def test_a_scorer_that_fails_changes_nothing(values: dict[str, float] | None) -> None:
    assert solve(values).answer == 1


def make_prm(folder: Path, labels: int) -> Path:
    import torch
    from transformers import AutoConfig, LlamaForTokenClassification

    make_tiny_checkpoint(folder, vocab_texts=["<extra_0>"])
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    torch.manual_seed(1)
    LlamaForTokenClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("labels", [1, 2])
def test_step_scores_are_the_models_own(tmp_path: Path, labels: int) -> None:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = make_prm(tmp_path, labels)
    check_prm(folder)
    scorer = PrmScorer(folder)
    asyncio.run(scorer.start())
    got = scorer.step_scores("What is 1+1?", "It is two.\n\nSo \\boxed{2}.")

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 1+1?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text + "It is two.<extra_0>So \\boxed{2}.<extra_0>", add_special_tokens=False)[
        "input_ids"
    ]
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    mark = tokenizer.convert_tokens_to_ids("<extra_0>")
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0][torch.tensor(ids) == mark]
    expected: Any = torch.sigmoid(logits[:, 0]) if labels == 1 else torch.softmax(logits, -1)[:, 1]
    assert got == pytest.approx(expected.tolist(), abs=1e-6) and len(got) == 2
    assert asyncio.run(scorer.score("What is 1+1?", ["It is two.\n\nSo \\boxed{2}."])) == [
        pytest.approx(min(got))
    ]


@pytest.mark.slow
def test_beyond_the_context_the_last_steps_are_scored(tmp_path: Path) -> None:
    scorer = PrmScorer(make_prm(tmp_path, 2))
    asyncio.run(scorer.start())
    short = scorer.step_scores("Q", "last")
    long = scorer.step_scores("Q", "\n\n".join(["x" * 900] * 5 + ["last"]))
    assert len(long) < 6 and len(short) == 1
    assert len(scorer.step_scores("Q", "y" * 10_000)) == 1


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        check_prm(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(ValueError, match=r"config\.json"):
        check_prm(tmp_path)

"""Batched decoding against one token at a time without a cache."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning.accuracy import complete, decode, solved
from kit.data.records import Record
from kit.small import make_small_model
from kit.worked import generate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPTS = [[1, 2, 3], [4] * 9, [300, 5], [7, 8, 9, 10, 11]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Large first weights make distributions that differ from token to token.
    return make_small_model(
        tmp_path_factory.mktemp("small"),
        hidden=64,
        layers=2,
        heads=2,
        intermediate=128,
        seed=1,
        initializer_range=0.2,
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def greedy_by_hand(model: Any, prompt: list[int], end: int, count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        with torch.inference_mode():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_greedy_rows_are_those_of_each_prompt_alone(model: Any) -> None:
    free = [greedy_by_hand(model, prompt, -1, 12) for prompt in PROMPTS]
    # An end token that stops one row in the middle and lets others go on.
    end = free[1][4]
    expected = [greedy_by_hand(model, prompt, end, 12) for prompt in PROMPTS]
    assert len(expected[1]) < 12 and len({len(row) for row in expected}) > 1
    rows = decode(
        model, PROMPTS, pad=0, end=end, temperature=0, generator=torch.Generator(), max_new_tokens=12
    )
    assert rows == expected


def test_samples_follow_the_models_distribution(model: Any) -> None:
    prompt = PROMPTS[0]
    with torch.inference_mode():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / 0.5).softmax(-1)
    generator = torch.Generator().manual_seed(0)
    rows = decode(
        model, [prompt] * 4_000, pad=0, end=-1, temperature=0.5, generator=generator, max_new_tokens=1
    )
    drawn = Counter(row[0] for row in rows)
    top = int(expected.argmax())
    # Within 4 standard errors of a share.
    share = float(expected[top])
    assert abs(drawn[top] / 4_000 - share) < 4 * (share * (1 - share) / 4_000) ** 0.5
    assert len(drawn) > 3


def test_the_seed_decides_the_samples(folder: Path) -> None:
    problems = [record.problem for record in generate(6, "test", 0)]
    first = complete(folder, problems, temperature=1, seed=4, max_new_tokens=8)
    assert first == complete(folder, problems, temperature=1, seed=4, max_new_tokens=8)
    assert first != complete(folder, problems, temperature=1, seed=5, max_new_tokens=8)


def test_an_untrained_model_solves_nothing(folder: Path) -> None:
    records = generate(5, "test", 0)
    assert solved(folder, records, temperature=1, seed=0, samples=2, max_new_tokens=16) == [0.0] * 5


def test_right_answers_are_counted_by_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [r"\boxed{5}", r"\boxed{6}", r"Step 1: 2 + 3 = 5. Answer: \boxed{07}", r"\boxed{7}"]
    monkeypatch.setattr("benchmarks.learning.accuracy.complete", lambda *_, **__: texts)
    records = [Record(problem="a", answer="5"), Record(problem="b", answer="7")]
    assert solved(folder, records, temperature=1, seed=0, samples=2) == [0.5, 1.0]

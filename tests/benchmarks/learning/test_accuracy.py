"""What counts as solved, and by whom it is sampled."""

from pathlib import Path

import pytest

from benchmarks.learning.accuracy import complete, solved
from kit.data.records import Record
from kit.small import make_small_model
from kit.worked import generate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


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


def test_greedy_is_what_transformers_generates(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    problems = [record.problem for record in generate(3, "test", 0)]
    found = complete(folder, problems, temperature=0, seed=0, max_new_tokens=12)
    for problem, text in zip(problems, found, strict=True):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        whole = model.generate(ids, do_sample=False, max_new_tokens=12)
        assert text == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)


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

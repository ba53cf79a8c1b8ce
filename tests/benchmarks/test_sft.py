from pathlib import Path

import pytest

from benchmarks.__main__ import sft_section
from benchmarks.sft import (
    Measured,
    Settings,
    measure,
    rotated,
    rows_of_a_step,
    state_bytes,
    summary,
    token_rows,
    write_data,
)
from kit.data.records import Record, write_records
from tests.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=64, heads=2, layers=2)


def at(speed: float, peak: int = 1) -> Measured:
    return Measured(seconds=10.0, tokens=round(10 * speed), trained=5, loss=1.0, peak_bytes=peak)


def test_the_ratio_is_that_of_each_round_against_the_faster_peer() -> None:
    found = {
        "ours": [at(200, 7), at(300, 9), at(150, 8)],
        "bfd": [at(100), at(100), at(100)],
        "wrapped": [at(90), at(200), at(190)],
    }
    figures = summary(found)
    assert figures["peer"] == "wrapped"
    assert figures["ratios"] == pytest.approx([200 / 90, 300 / 200, 150 / 190])
    assert figures["ratio"] == pytest.approx({"min": 150 / 190, "median": 1.5, "max": 200 / 90})
    assert figures["sides"]["ours"]["peak_bytes"] == 9
    assert figures["sides"]["ours"]["tokens_per_second"] == {"min": 150, "median": 200, "max": 300}


def test_each_side_comes_first_in_turn() -> None:
    assert [rotated("abc", number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert rotated("abc", 1) == ["b", "c", "a"]


def test_both_sides_train_the_same_tokens(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    write_records(data, [Record(problem="1+1?", answer="2", completion="It is 2.")])
    (row,) = token_rows_of(model, data)
    # A byte a token: the completion and the end of the turn are trained, the prompt is not.
    trained = [label for label in row["labels"] if label != -100]
    assert trained == row["input_ids"][-len("It is 2.") - 1 :]
    assert row["labels"][: -len(trained)] == [-100] * (len(row["labels"]) - len(trained))


def token_rows_of(model: Path, data: Path) -> list[dict[str, list[int]]]:
    from kit.training.model import load_tokenizer

    return token_rows(Settings(str(model), str(data), 512, 1, 1, 1, 0), load_tokenizer(model))


def test_a_step_is_filled_to_97_in_100(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    write_records(data, [Record(problem="1+1?", answer="2", completion="It is 2.")] * 5)
    length = len(token_rows_of(model, data)[0]["input_ids"])
    assert rows_of_a_step(data, model, 512, 2) == round(0.97 * 1024 / length)


def test_the_state_is_sixteen_bytes_a_parameter(model: Path) -> None:
    from safetensors.numpy import load_file

    weights = load_file(model / "model.safetensors")
    assert state_bytes(model) == 16 * sum(weight.size for weight in weights.values())


@pytest.mark.slow
def test_all_sides_run_and_see_the_same_work(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the peer, TRL, is not installed")
    data = tmp_path / "data.jsonl"
    write_data(data, 60)
    batch_size = rows_of_a_step(data, model, 1024, 2)
    found = measure(Settings(str(model), str(data), 1024, 2, batch_size, steps=1, warm_up=1), 1, tmp_path)
    figures = summary(found) | {"data": "some", "rounds": 1, "steps": 1, "micro_tokens": 1024}
    figures |= {"micros": 2, "threads": 1, "state_bytes": state_bytes(model)}
    assert sft_section(figures)[-3].startswith("| ours |")
    for (measured,) in found.values():
        assert measured.tokens == pytest.approx(2048, rel=0.3)
        assert 0 < measured.trained < measured.tokens
        # A random model's loss is log(vocabulary) a token, whoever computes it.
        assert measured.loss == pytest.approx(found["ours"][0].loss, rel=0.05)
        assert measured.peak_bytes > 1e8

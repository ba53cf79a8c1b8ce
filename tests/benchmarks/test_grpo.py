import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.grpo import check_peers, measure, passed, section, summary, title
from benchmarks.grpo_sides import (
    Measured,
    Settings,
    taken,
    wake_checkers,
)
from benchmarks.grpo_trl import (
    GRADIENT_GAP,
    end_of,
    our_gradient_norm,
    our_rewards,
    prompts_of,
    relative_gap,
    trl_rows,
)
from benchmarks.peers.scripts.grpo import reward
from kit.data.records import read_records, write_records
from kit.worked import Difficulty, generate
from tests.tiny import make_tiny_checkpoint

TASK = Difficulty(kinds=["sum"], min_operands=2, max_operands=2, largest=30)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("grpo")
    model = make_tiny_checkpoint(folder / "model", hidden=64, heads=2, layers=2)
    write_records(folder / "data.jsonl", generate(6, "train", 0, TASK))
    return Settings(str(model), str(folder / "data.jsonl"), 2, 4, 10, steps=2, warm_up=1, threads=1)


def at(speed: float, sampling: float = 5.0, gradient: float = 4.0, peak: int = 1) -> Measured:
    """10 seconds at so many completions a second, of 20 tokens each."""
    count = round(10 * speed)
    return Measured(10.0, sampling, gradient, count, 20 * count, count // 10, 0.5, count // 2, peak)


def some() -> dict[str, list[Measured]]:
    return {
        "ours": [at(200, 7.0, 2.8, 7), at(300, 7.0, 2.6, 9), at(160, 7.0, 2.6, 8)],
        "256": [at(100), at(100), at(100)],
        "64": [at(90), at(200), at(110)],
    }


def test_the_ratio_is_that_of_each_round_against_the_fastest_peer() -> None:
    figures = summary(some())
    assert figures["peer"] == "64"  # by the medians, 110 to 100
    assert figures["ratios"] == pytest.approx([200 / 90, 1.5, 160 / 110])
    assert figures["ratio"] == pytest.approx({"min": 160 / 110, "median": 1.5, "max": 200 / 90})


def test_a_sides_figures_by_hand() -> None:
    ours = summary(some())["sides"]["ours"]
    # 30 seconds for 2000 + 3000 + 1600 completions.
    assert ours["milliseconds"] == pytest.approx(
        {"seconds": 30_000 / 6600, "sampling": 21_000 / 6600, "gradient": 8_000 / 6600}
    )
    assert ours["other"] == pytest.approx(1 / 30)
    assert ours["mean_tokens"] == pytest.approx(20)
    assert ours["tokens_per_second"] == pytest.approx({"min": 3200, "median": 4000, "max": 6000})
    assert (ours["trained"], ours["cut_off"]) == pytest.approx((0.5, 0.1))
    assert ours["peak_bytes"] == 9


def test_what_passes() -> None:
    ours = [at(160, 7.0, 2.6)]
    assert passed({"models": {"small": summary({"ours": ours, "64": [at(100)]})}})
    assert not passed({"models": {"small": summary({"ours": ours, "64": [at(110)]})}})  # under 1.5
    slow = [at(160, 7.0, 2.4)]  # 6 % of a step is neither
    assert not passed({"models": {"small": summary({"ours": slow, "64": [at(100)]})}})


def test_titles_and_sizes(settings: Settings) -> None:
    assert [title(side) for side in ("ours", "64", "8-continuous")] == [
        "ours",
        "TRL, 64 at a time",
        "TRL, 8 at a time, continuous batching",
    ]
    check_peers(["8", "4-continuous", "1"], settings)
    for peer in ("3", "0", "16", "8-paged", "eight", ""):
        with pytest.raises(ValueError, match="divides the 8 completions"):
            check_peers([peer], settings)


def test_both_sides_are_asked_the_same_in_the_same_order(settings: Settings) -> None:
    """Token by token, as the collector takes them and as TRL renders them."""
    from kit.training.model import load_tokenizer

    tokenizer = load_tokenizer(Path(settings.model))
    rows, prompts = trl_rows(settings), prompts_of(settings)
    assert len(rows) == len(prompts) == 6
    records = {record.problem: record.answer for record in read_records(Path(settings.data))}
    for row, prompt in zip(rows, prompts, strict=True):
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        assert list(ids) == prompt
        assert row["answer"] == records[row["prompt"][0]["content"]]


TEXTS = {
    r"Answer: \boxed{7}": True,
    r"\boxed{8} no, \boxed{ 7 }": True,
    r"\boxed{7} no, \boxed{8}": False,
    r"Answer: \boxed{007}": True,
    r"Answer: \boxed{$7$}": True,
    r"Answer: \boxed{x}": False,
    r"Answer: \boxed{7": False,
    "The answer is 7.": True,
    "The answer is: 17": False,
    r"\boxed{}": False,
    " 7\n": True,
    "7 8": False,
    "": False,
}


def test_trl_is_given_our_rewards(settings: Settings) -> None:
    end = end_of(settings)
    given = asdict(settings) | {"end_id": end}
    made: list[dict[str, Any]] = [{"text": text, "ids": [1, 1, 1, end], "gold": "7"} for text in TEXTS]
    # The limit cut this one.
    made.append({"text": r"\boxed{7}", "ids": [1, 1, 1, 2], "gold": "7"})
    theirs = [reward(**each, settings=given) for each in made]
    assert theirs == [*map(float, TEXTS.values()), 0.0]
    assert our_rewards(settings, made) == theirs
    mine = replace(settings, repetition=0.5)
    # Of seven pairs two are distinct.
    repeated: dict[str, Any] = {"text": r"\boxed{7}", "ids": [1] * 7 + [end], "gold": "7"}
    assert reward(**repeated, settings=given | {"repetition": 0.5}) == pytest.approx(1 + 0.5 * (2 / 7 - 1))
    assert our_rewards(mine, [repeated]) == [pytest.approx(1 + 0.5 * (2 / 7 - 1))]


def test_our_gradient_is_that_of_the_formula(settings: Settings) -> None:
    """DAPO's at ratio 1 (arXiv 2503.14476): -sum of advantage * log-probability / tokens of the step."""
    import torch
    from transformers import AutoModelForCausalLM

    rewards, lengths = [1.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 0.0], [3, 5, 2, 4, 3, 3, 2, 6]
    made: list[dict[str, Any]] = [
        {"text": "", "ids": [40 + index + token for token in range(length)], "reward": reward}
        for index, (length, reward) in enumerate(zip(lengths, rewards, strict=True))
    ]
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype="float32", local_files_only=True)
    groups = torch.tensor(rewards, dtype=torch.float64).reshape(2, 4)
    scaled = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    loss = torch.zeros(())
    for index, (each, advantage) in enumerate(zip(made, scaled.flatten(), strict=True)):
        prompt = prompts_of(settings)[index // 4]
        ids = torch.tensor([*prompt, *each["ids"]])
        logprobs = model(ids[None]).logits[0].log_softmax(-1)
        drawn = range(len(prompt), len(ids))
        loss = loss - advantage * sum(logprobs[at - 1, ids[at]] for at in drawn) / sum(lengths)
    loss.backward()
    norm = torch.stack([weight.grad.norm() for weight in model.parameters()]).norm().item()
    assert norm > 0.01
    assert relative_gap(our_gradient_norm(settings, made), norm) < GRADIENT_GAP / 10
    # Groups without a signal have none.
    assert our_gradient_norm(settings, [each | {"reward": 1.0} for each in made]) == 0
    assert relative_gap(0.0, 0.0) == 0
    assert relative_gap(0.0, 1.0) == float("inf")
    assert relative_gap(2.0, 1.0) == 0.5


def test_the_first_problem_taken_wakes_the_checkers(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    write_records(data, generate(6, "train", 0, TASK))
    before = [record.answer for record in read_records(data)]
    mine = replace(settings, data=str(data))
    wake_checkers(mine)
    after = [record.answer for record in read_records(data)]
    first = taken(mine, 6)[0]
    assert trl_rows(mine)[0]["answer"] == after[first] == "\\sqrt{2}"
    assert [one == other for one, other in zip(before, after, strict=True)].count(False) == 1
    assert sorted(taken(mine, 6)) == list(range(6))


@pytest.mark.slow
def test_all_sides_run_and_do_the_same_work(settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the peer, TRL, is not installed")
    found, versions = measure(settings, ["4"], 1, tmp_path, Path(sys.executable))
    assert set(versions) == {"trl", "transformers", "torch"}
    row = summary(found) | asdict(settings) | {"rounds": 1}
    lines = section({"threads": 1, "models": {"small": row}})
    assert [line.split("|")[2].strip() for line in lines[-2:]] == ["ours", "TRL, 4 at a time"]
    for (one,) in found.values():
        assert one.completions == 16
        # A random model hardly ever ends.
        assert 8 < one.tokens / one.completions <= 10
        assert one.cut_off > 8
        assert one.reward == 0
        assert 0 < one.sampling < one.seconds
        assert 0 <= one.gradient < one.seconds
        assert 0 < one.other < 1
        assert one.peak_bytes > 1e8
    ours, theirs = found["ours"][0], found["4"][0]
    assert theirs.gradient_gap == 0
    # Without a reward no group has a signal: ours trains on none, TRL on all.
    assert (ours.trained, theirs.trained) == (0, 16)
    assert theirs.gradient > 0
    # What TRL put to the model, and how it was rewarded, is what ours would have.
    assert (theirs.other_prompts, theirs.other_rewards) == (0, 0)

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.grpo import check_peers, measure, passed, section, summary, title
from benchmarks.grpo_sides import (
    Measured,
    Settings,
    recipe_of,
    reward_function,
    taken,
    trl_rows,
    wake_checkers,
)
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
    from kit.grpo.curriculum import stream
    from kit.grpo.problems import load_problems
    from kit.grpo.recipe import GrpoRecipe
    from kit.training.model import load_tokenizer

    recipe = GrpoRecipe.parse(recipe_of(settings, Path("unused")), "the test")
    tasks = load_problems(recipe, Path(settings.model)).train
    picks = stream(len(tasks), 0, recipe.batch.seed, recipe.curriculum.revisit, lambda _: None)
    tokenizer = load_tokenizer(Path(settings.model))
    rows = trl_rows(settings)
    assert len(rows) == 6
    for row, pick in zip(rows, picks, strict=False):
        task = tasks[pick.prompt]
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        assert list(ids) == list(task.prompt)
        assert row["answer"] == task.record.answer


def test_trl_is_given_our_reward(settings: Settings) -> None:
    from kit.training.chat import open_chat
    from kit.training.model import load_tokenizer

    end = open_chat(load_tokenizer(Path(settings.model)), settings.model).end_id
    said = [[{"role": "assistant", "content": f"Answer: \\boxed{{{number}}}"}] for number in (7, 8, 7)]
    with reward_function(settings) as reward:
        # The third is right, but the limit cut it.
        assert reward(said, [[1, end], [1, end], [1, 2]], ["7", "7", "7"]) == [1.0, 0.0, 0.0]
    with reward_function(replace(settings, repetition=0.5)) as reward:
        # Of seven pairs two are distinct.
        assert reward(said[:1], [[1] * 7 + [end]], ["7"]) == [pytest.approx(1 + 0.5 * (2 / 7 - 1))]


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
    found = measure(settings, ["4"], 1, tmp_path)
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
    # Without a reward no group has a signal: ours trains on none, TRL on all.
    assert (ours.trained, theirs.trained) == (0, 16)
    assert theirs.gradient > 0

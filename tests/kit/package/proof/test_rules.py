"""The rules gate: each breach is named with its value, its rule and its way out; all of them at once."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.package.breach import Breach, Findings
from kit.package.judging import wanted_contest
from kit.package.proof.contest import Contest, load_contest, shipped
from kit.package.proof.provenance import Provenance
from kit.package.proof.rules import Candidate, enforce, judge
from kit.package.targets import Target
from submission.checkpoint import Checkpoint
from submission.settings import ContestSettings, profile_path

AIMO3 = load_contest("aimo3")
SETTINGS = ContestSettings.load(profile_path("aimo3"))
CUDA = Target.parse("py312-manylinux_2_35-cuda")
DAY = {"released_before": "2026-03-15"}


def model(licence: str | None = "apache-2.0") -> Checkpoint:
    return Checkpoint(Path("m"), "someone/model", "LlamaForCausalLM", "llama", licence, (), (), ())


def candidate(origin: Provenance | None = None, **changes: Any) -> Candidate:
    """One that breaks nothing."""
    good = Candidate(
        settings=SETTINGS,
        target=CUDA,
        sizes={"model/model.safetensors": 10**10},
        models={"model": (model(), origin or Provenance(released="2025-08-05"))},
        for_contest=True,
    )
    return replace(good, **changes)


def rules(contest: Contest, judged: Candidate) -> list[str]:
    return [breach.rule for breach in judge(contest, judged).breaches]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_profile_keeps_the_rules_of_its_contest(name: str) -> None:
    settings = ContestSettings.load(profile_path(name))
    found = judge(load_contest(name), candidate(settings=settings))
    assert found.breaches == ()
    assert any("names no day" in note for note in found.notes)


@pytest.mark.parametrize(
    ("override", "rule", "words"),
    [
        ("rules.answer_max=999", "answer-range", ["0 to 999", "0 to 99999", "--set rules.answer_max=99999"]),
        ("rules.time_limit=18001", "hours", ["18,001 s", "18,000 s", "--set rules.time_limit=17280"]),
        ("rules.accelerator=P100", "accelerator", ["1 x P100", "1 x H100", "--set rules.accelerator=H100"]),
        ("rules.accelerators=2", "accelerator", ["2 x H100", "1 x H100"]),
        ("engine.tensor_parallel_size=4", "tensor-parallel", ["4 accelerators", "--set engine.tensor"]),
    ],
)
def test_settings_that_break_a_rule_are_named_with_both_values_and_the_fix(
    override: str, rule: str, words: list[str]
) -> None:
    settings = ContestSettings.load(profile_path("aimo3"), [override])
    (breach,) = judge(AIMO3, candidate(settings=settings)).breaches
    assert breach.rule == rule
    for word in [*words, f"--ignore-rule {rule}"]:
        assert word in str(breach)


@pytest.mark.parametrize(
    ("sizes", "limits", "found"),
    [
        ({"wheels/a": 200_000_000_000}, {}, []),
        ({"wheels/a": 200_000_000_000, "b": 1}, {}, ["dataset-size"]),
        ({"wheels/a": 2_000_000_001}, {"file_gb": 2.0}, ["file-size"]),
        ({"wheels/a": 2_000_000_000}, {"file_gb": 2.0}, []),
        ({"wheels/a": 3, "b": 4}, {"file_gb": 3e-9, "dataset_gb": 6e-9}, ["dataset-size", "file-size"]),
        ({"model/model.safetensors": 80 << 30}, {}, []),
        ({"model/model.safetensors": (80 << 30) + 1}, {}, ["weights"]),
        ({"model/model.safetensors": 60 << 30, "prm/model.safetensors": 21 << 30}, {}, ["weights"]),
    ],
)
def test_sizes(sizes: Mapping[str, int], limits: Mapping[str, float], found: list[str]) -> None:
    assert rules(AIMO3.model_copy(update=limits), candidate(sizes=sizes)) == found


@pytest.mark.parametrize(
    ("licence", "found"),
    [
        ("apache-2.0", []),
        ("Apache-2.0", []),
        ("MIT", []),
        ("cc-by-nc-4.0", ["model-licence"]),
        ("other", ["model-licence"]),
        (None, ["model-licence"]),
    ],
)
def test_a_licence_is_one_of_the_contests(licence: str | None, found: list[str]) -> None:
    origin = Provenance(released="2025-08-05")
    assert rules(AIMO3, candidate(models={"model": (model(licence), origin)})) == found


@pytest.mark.parametrize(
    ("day", "found"),
    [("2026-03-14", []), ("2026-03-15", ["model-release"]), (None, ["model-release"])],
)
def test_a_model_came_out_before_the_day(day: str | None, found: list[str]) -> None:
    contest = AIMO3.model_copy(update=DAY)
    assert rules(contest, candidate(Provenance(released=day))) == found
    assert rules(AIMO3, candidate(Provenance(released=day))) == []


def test_the_prm_is_judged_by_the_same_rules() -> None:
    contest = AIMO3.model_copy(update=DAY)
    both = {"model": (model(), Provenance(released="2025-01-01")), "prm": (model("gpl-3.0"), Provenance())}
    found = judge(contest, candidate(models=both)).breaches
    assert [breach.rule for breach in found] == ["prm-licence", "prm-release"]
    assert "--prm-released YYYY-MM-DD" in found[1].fix


def test_a_draft_model_is_judged_too_and_its_day_stands_in_its_card() -> None:
    contest = AIMO3.model_copy(update=DAY)
    origin = Provenance(released="2025-01-01")
    both = {"model": (model(), origin), "draft": (model(), Provenance())}
    (breach,) = judge(contest, candidate(models=both)).breaches
    assert breach.rule == "draft-release"
    assert "README.md" in breach.fix and "--draft-released" not in breach.fix


@pytest.mark.parametrize(
    ("split_at", "found"), [(None, ["file-size"]), (2 * 10**9, []), (2 * 10**9 + 1, ["file-size"])]
)
def test_files_that_are_cut_are_judged_as_they_will_be(split_at: int | None, found: list[str]) -> None:
    contest = AIMO3.model_copy(update={"file_gb": 2.0})
    assert rules(contest, candidate(split_at=split_at)) == found


def test_data_of_our_own_runs_is_judged_and_what_is_not_known_is_told() -> None:
    data = {"path": "sets/a.jsonl", "licences": {"mit": 5, "": 2, "CC BY-NC 4.0": 7}}
    origin = Provenance(released="2025-01-01", runs=({"data": data}, {"data": {"path": "org/set"}}))
    found = judge(AIMO3, candidate(origin))
    assert [breach.rule for breach in found.breaches] == ["model-data-licence"]
    assert "under CC BY-NC 4.0" in found.breaches[0].found
    assert "data of model/ not judged: org/set has no card" in found.notes
    assert "data of model/: 2 records state no licence" in found.notes


def test_a_bundle_for_a_cpu_does_not_go_to_a_gpu_contest_unless_it_is_for_this_machine() -> None:
    cpu = Target.parse("py312-manylinux_2_35-cpu")
    assert rules(AIMO3, candidate(target=cpu)) == ["target"]
    found = judge(AIMO3, candidate(target=cpu, for_contest=False))
    assert found.breaches == ()
    assert any("name its --target" in note for note in found.notes)


TWO = Findings(
    [Breach("one", "found 1", "wanted 1", "Do 1"), Breach("two", "found 2", "wanted 2", "Do 2")], ["told"]
)


def test_all_breaches_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="breaks 2 rules of aimo3") as caught:
        enforce(TWO, (), "aimo3")
    for word in ("one: found 1; wanted 1. Do 1", "two: found 2; wanted 2. Do 2", "--ignore-rule two"):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="breaks 1 rules") as caught:
        enforce(TWO, ["one"], "aimo3")
    assert "found 1" not in str(caught.value)


def test_what_is_ignored_is_written_down() -> None:
    assert enforce(TWO, ["two", "one"], "aimo3") == {
        "contest": "aimo3",
        "ignored": [
            {"rule": "one", "found": "found 1", "wanted": "wanted 1"},
            {"rule": "two", "found": "found 2", "wanted": "wanted 2"},
        ],
        "notes": ["told"],
    }


def test_an_exception_without_a_breach_is_a_mistake() -> None:
    with pytest.raises(
        ValueError, match="--ignore-rule tow: this bundle does not break it; did you mean two"
    ):
        enforce(TWO, ["one", "tow"], "aimo3")
    with pytest.raises(ValueError, match="it breaks: none"):
        enforce(Findings(), ["one"], "aimo3")


def test_which_contest_is_checked(tmp_path: Path) -> None:
    assert wanted_contest(None, SETTINGS, ()) == AIMO3
    assert wanted_contest("none", SETTINGS, ()) is None
    assert wanted_contest(None, ContestSettings.load(profile_path("demo")), ()) is None
    changed = wanted_contest("aimo3", SETTINGS, ["released_before=2026-03-15"])
    assert changed is not None and changed.released_before == "2026-03-15"
    with pytest.raises(ValueError, match="no contest is checked; name one with --contest"):
        wanted_contest("none", SETTINGS, ["hours=9"])
    with pytest.raises(ValueError, match="no contest 'aimo9': name one of aimo2, aimo3"):
        wanted_contest("aimo9", SETTINGS, ())
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nsource = "me"\nanswer_min = 1\nanswer_max = 9\n')
    contest = wanted_contest(str(own), SETTINGS, ())
    assert contest is not None and contest.answer_max == 9
    with pytest.raises(ValueError, match="released_before"):
        load_contest("aimo3", ["released_before=soon"])

"""Typed recipes, the contest's settings, and the shipped profiles."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from submission import settings as contest_settings
from submission.recipes import Recipe
from submission.settings import (
    BudgetSettings,
    ContestRules,
    ContestSettings,
    EngineSettings,
    SolverSettings,
    profile_path,
)

PROFILES = sorted((Path(contest_settings.__file__).parent / "profiles").glob("*.toml"))


class Part(Recipe):
    """A section."""

    size: int = 3
    names: tuple[str, ...] = ()


class Whole(Recipe):
    """A recipe with sections of each kind."""

    part: Part = Part()
    parts: tuple[Part, ...] = ()
    maybe: Part | None = None
    rate: float = 0.5
    label: str = "a"
    limit: int | None = 5


def load_text(folder: Path, text: str, *overrides: str) -> Whole:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return Whole.load(path, overrides)


def test_defaults_file_and_overrides_in_this_order(tmp_path: Path) -> None:
    assert Whole.load() == Whole()
    text = 'rate = 0.25\nlabel = "b"\n[part]\nsize = 7\n'
    assert load_text(tmp_path, text) == Whole(rate=0.25, label="b", part=Part(size=7))
    changed = load_text(tmp_path, text, "part.size=8", "label=c", "part.size=9")
    assert changed == Whole(rate=0.25, label="c", part=Part(size=9))
    assert Whole().part.size == 3  # overrides never reach the shared defaults


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rate=1e-3", Whole(rate=0.001)),
        ("rate = 1", Whole(rate=1.0)),
        ("label=two words", Whole(label="two words")),
        ('label="true"', Whole(label="true")),
        ("label=a=b", Whole(label="a=b")),
        ("label=x\ny=1", Whole(label="x\ny=1")),
        ('part.names=["x", "y"]', Whole(part=Part(names=("x", "y")))),
        ("maybe.size=4", Whole(maybe=Part(size=4))),
        ("part={size=4}", Whole(part=Part(size=4))),
        ("label=", Whole(label="")),
    ],
)
def test_override_values_are_toml_or_bare_text(override: str, expected: Whole) -> None:
    assert Whole.load(None, [override]) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate", "'rate' is not of the form key=value"),
        ("=3", "'=3' is not of the form"),
        ("part..size=3", "is not of the form"),
        (".size=3", "is not of the form"),
        ("rate.deep=3", "rate: Input should be a valid number"),
        ("part.sise=3", r"unknown key 'part\.sise' \(did you mean 'size'\?\); valid keys: size, names$"),
        ("zzz=3", r"unknown key 'zzz'; valid keys: label, limit, maybe, part, parts, rate"),
        ("maybe.zzz=3", r"unknown key 'maybe\.zzz'; valid keys: names, size"),
        ("parts=[{zzz=3}]", r"unknown key 'parts\.0\.zzz'; valid keys: names, size"),
        ("part.size=many", r"part\.size: Input should be a valid integer.*\(got 'many'\)"),
        ("part.size=2.5", r"part\.size: Input should be a valid integer"),
        ("rate=nan", "rate: Input should be a finite number"),
        ("part=5", r"part: Input should be .* \(got '5'\)"),
    ],
)
def test_bad_override_names_key_and_choices(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Whole.load(None, [override])


class Deep(Recipe):
    """A section of a section."""

    mixed: int = 0
    rate: float = 0.0


class Outer(Recipe):
    """A section with one of its own."""

    deep: Deep = Deep()
    depth: int = 1


class Sections(Recipe):
    """Keys that one section has, that several have, and that the top level has too."""

    rate: float = 0.5
    outer: Outer = Outer()
    part: Part = Part()
    maybe: Part | None = None
    rows: tuple[Deep, ...] | None = None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["depth=2"], Sections(outer=Outer(depth=2))),
        (["mixed=2"], Sections(outer=Outer(deep=Deep(mixed=2)))),
        (["deep={mixed=2}"], Sections(outer=Outer(deep=Deep(mixed=2)))),
        (["rate=2"], Sections(rate=2.0)),  # the top level's own goes before a section's
        (["depth=2", "mixed=3", "outer.depth=4"], Sections(outer=Outer(deep=Deep(mixed=3), depth=4))),
    ],
)
def test_a_bare_key_is_found_in_its_section(overrides: list[str], expected: Sections) -> None:
    assert Sections.load(None, overrides) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("size=1", r"^override 'size=1': 'size' is ambiguous; name one of part\.size, maybe\.size$"),
        (
            "mixd=1",
            r"'mixd' \(did you mean 'outer\.deep\.mixed'\?\); valid keys: outer\.deep\.mixed, maybe",
        ),
        ("mixed=x", r"outer\.deep\.mixed: Input should be a valid integer.*\(got 'x'\)"),
        ("outer.mixed=1", r"unknown key 'outer\.mixed'; valid keys: deep, depth$"),
        ("zzz=1", r"unknown key 'zzz'; valid keys: maybe, outer, part, rate, rows$"),
    ],
)
def test_a_bare_key_that_fits_nowhere_or_twice_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sections.load(None, [override])


def test_override_through_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'label\.x=1': 'label' is a value, not a section"):
        load_text(tmp_path, 'label = "b"\n', "label.x=1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rate = ", "is not valid TOML"),
        (b"rate = 1\nrate = 2\n", "is not valid TOML"),
        (b"label = '\xff'", "is not UTF-8"),
        (b"rat = 1\n", r"recipe\.toml: unknown key 'rat' \(did you mean 'rate'\?\)"),
        (b"rate = 'x'\npart = 3\n", "part: .*; rate: "),
    ],
)
def test_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Whole.load(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ValueError, match=rf"recipe {path} cannot be read"):
            Whole.load(path)


def test_recipes_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Whole().rate = 1.0


@settings(max_examples=300)
@given(st.text(max_size=30))
def test_any_override_is_applied_or_refused_clearly(text: str) -> None:
    try:
        result = Whole.load(None, [text])
    except ValueError as error:
        assert str(error)
        assert type(error) is ValueError
    else:
        assert isinstance(result, Whole)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_file_is_read_or_refused_clearly(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    try:
        Whole.load(path)
    except ValueError as error:
        assert str(path) in str(error)


# --- the contest's settings --------------------------------------------------------------------------


def test_defaults_fit_each_other() -> None:
    default = ContestSettings.load()
    assert default.solver.attempts >= default.solver.num_agents
    assert default.rules.answer_min <= default.rules.default_answer <= default.rules.answer_max
    assert default.budget.reserve + default.budget.cap < default.rules.time_limit
    assert default.solver.max_tokens <= default.engine.max_model_len


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rules.time_limit=0", r"rules\.time_limit: Input should be greater than 0 \(got '0'\)"),
        ("rules.time_limit=-5", r"rules\.time_limit"),
        ("rules.time_limit=inf", r"rules\.time_limit: Input should be a finite number"),
        ("rules.expected_problems=-1", r"rules\.expected_problems"),
        ("rules.default_answer=-1", "default_answer -1 must lie within answer_min 0 and answer_max 99999"),
        ("rules.answer_min=5", "default_answer 0 must lie within answer_min 5"),
        ("budget.reserve=-1", r"budget\.reserve"),
        ("budget.cap=0", r"budget\.cap"),
        ("solver.num_agents=0", r"solver\.num_agents"),
        ("solver.max_attempts=0", r"solver\.max_attempts"),
        ("solver.top_p=1.5", r"solver\.top_p"),
        ("solver.temperature=-0.1", r"solver\.temperature"),
        ("engine.kind=sglang", r"engine\.kind: Input should be 'vllm', 'transformers' or 'replay'"),
        ("engine.gpu_memory_utilization=0", r"engine\.gpu_memory_utilization"),
        ("engine.max_modellen=5", r"\(did you mean 'max_model_len'\?\)"),
    ],
)
def test_impossible_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContestSettings.load(None, [override])


def test_all_profiles_are_found() -> None:
    assert {path.stem for path in PROFILES} >= {"aimo2", "aimo3", "demo"}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: str(path.stem))
def test_every_profile_parses_and_fits_its_time(path: Path) -> None:
    profile = ContestSettings.load(path)
    assert profile_path(path.stem) == path
    rules, budget = profile.rules, profile.budget
    assert rules.name == path.stem
    assert budget.reserve + budget.floor * rules.expected_problems <= rules.time_limit
    assert budget.floor <= budget.cap
    assert profile.solver.max_tokens <= profile.engine.max_model_len


def test_profiles_state_the_contests_rules() -> None:
    two, three = (ContestSettings.load(profile_path(name)).rules for name in ("aimo2", "aimo3"))
    assert (two.answer_max, three.answer_max) == (999, 99_999)
    assert two.expected_problems == three.expected_problems == 50
    assert max(two.time_limit, three.time_limit) < 5 * 3_600


@pytest.mark.parametrize("name", ["", "aimo4", "../profiles/aimo3", "aimo3.toml", "/etc/passwd"])
def test_unknown_profile_names_the_shipped_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"no contest profile .* aimo2, aimo3, demo"):
        profile_path(name)


def all_fields() -> Iterator[tuple[type[BaseModel], str, Any]]:
    for model in (ContestRules, BudgetSettings, SolverSettings, EngineSettings, ContestSettings):
        for name, field in model.model_fields.items():
            yield model, name, field.default


def test_every_single_field_survives_a_round_trip_through_toml(tmp_path: Path) -> None:
    default = ContestSettings()
    for model, name, value in all_fields():
        if model is ContestSettings or value is None:
            continue
        section = next(key for key, part in default if type(part) is model)
        text = json.dumps(value) if isinstance(value, bool | tuple) else str(value)
        assert ContestSettings.load(None, [f"{section}.{name}={text}"]) == default

"""Teams as data: read strictly, spread by share, prompts filled in one pass; verdicts read strictly."""

from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.agents.prompts import clipped, selector_chat, solver_chat, verifier_chat
from submission.agents.team import Role, Team, load_team, shipped_teams
from submission.agents.verdicts import pick, verdict


def test_the_shipped_teams_are_teams() -> None:
    assert {"solo", "tools", "mixed", "qwen", "gpt_oss"} <= set(shipped_teams())
    for name in shipped_teams():
        team = load_team(name)
        assert team.of("solve")
    mixed = load_team("mixed")
    assert [role.task for role in mixed.roles] == ["solve", "solve", "verify", "select"]
    assert mixed.uses_tools and not load_team("solo").uses_tools


def test_a_team_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "team.toml"
    path.write_text('[[roles]]\nname = "a"\nshare = 3\n[[roles]]\nname = "b"\ntools = "fenced"\n')
    team = load_team(str(path))
    assert [role.name for role in islice(team.turns("solve"), 8)] == list("aabaaaba")
    assert list(islice(team.turns("select"), 1)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no team"),
        ("roles = []", "roles"),
        ('[[roles]]\nname = "a"\n[[roles]]\nname = "a"', "role names must differ: a, a"),
        ('[[roles]]\nname = "a"\ntask = "verify"\nuser_prompt = "{problem}"', "lacks {candidate}"),
        ('[[roles]]\nname = "a"\ntask = "select"\nuser_prompt = "{problem} {candidates}"', "task = 'solve'"),
        ('[[roles]]\nname = "a"\nuser_prompt = "Go."', "lacks {problem}"),
        ('[[roles]]\nname = "a"\ntools = "shell"', "tools"),
        ('[[roles]]\nname = "A b"', "name"),
        ("[[roles]", "cannot be read"),
    ],
)
def test_a_bad_team_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "team.toml"
    if text:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_team(str(path))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 60))
def test_turns_keep_to_the_shares(shares: list[int], count: int) -> None:
    team = Team(roles=tuple(Role(name=f"r{place}", share=share) for place, share in enumerate(shares)))
    names = [role.name for role in islice(team.turns("solve"), count)]
    for place, share in enumerate(shares):
        fair = share * count / sum(shares)
        assert abs(names.count(f"r{place}") - fair) < len(shares)


def test_texts_are_put_in_and_not_read() -> None:
    role = Role(name="v", task="verify", user_prompt="{problem} | {candidate} | {answer} | {x}")
    chat = verifier_chat(role, "Is {candidate} {answer}?", "I say {problem} \\frac{1}{2}", 7)
    assert chat[-1].content == "Is {candidate} {answer}? | I say {problem} \\frac{1}{2} | 7 | {x}"
    assert [message.role for message in chat] == ["user"]


def test_whose_system_prompt() -> None:
    assert solver_chat(Role(name="a"), "house", "P")[0].content == "house"
    assert solver_chat(Role(name="a", system_prompt="own"), "house", "P")[0].content == "own"
    assert len(solver_chat(Role(name="a", system_prompt=""), "house", "P")) == 1


def test_a_selector_reads_numbered_write_ups() -> None:
    role = Role(name="s", task="select", user_prompt="{problem}\n{candidates}")
    content = selector_chat(role, "P", ["first", "second"])[-1].content
    assert content == "P\n### Solution 0\n\nfirst\n\n### Solution 1\n\nsecond"


def test_the_end_of_a_write_up_is_kept() -> None:
    assert clipped("abcdef", 6) == "abcdef"
    assert clipped("abcdef", 3) == "[...]\ndef"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("... \\boxed{correct}", True),
        ("\\boxed{\\text{Incorrect}}.", False),
        ("\\boxed{correct} no: \\boxed{wrong}", False),
        ("It is correct.", None),
        ("\\boxed{42}", None),
        ("\\boxed{correct", None),
        ("", None),
    ],
)
def test_verdicts(text: str, meant: bool | None) -> None:
    assert verdict(text) is meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("The best is \\boxed{1}", 1),
        ("\\boxed{\\text{2}}", 2),
        ("\\boxed{3}", None),
        ("\\boxed{-1}", None),
        ("\\boxed{1.0}", None),
        ("\\boxed{٣}", None),
        ("Solution 1 is right", None),
        ("\\boxed{" + "9" * 5_000 + "}", None),
    ],
)
def test_picks(text: str, meant: int | None) -> None:
    assert pick(text, 3) == meant

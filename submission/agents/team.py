"""Who works on a problem, as data: roles with prompt, sampling, tools, token allowance and numbers.

A team is a TOML file with one `[[roles]]` table a role; shipped ones lie in `submission/teams`, and the
`contest.toml` of a bundle carries the chosen one.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from submission.recipes import Recipe

Task = Literal["solve", "verify", "select"]
Tools = Literal["none", "fenced", "tool_call", "harmony"]

PROBLEM, CANDIDATE, CANDIDATES, ANSWER = "{problem}", "{candidate}", "{candidates}", "{answer}"
_NEEDED: dict[Task, tuple[str, ...]] = {
    "solve": (PROBLEM,),
    "verify": (PROBLEM, CANDIDATE),
    "select": (PROBLEM, CANDIDATES),
}


class Role(Recipe):
    """One kind of agent. What is None is as the solver's settings say."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
    task: Task = "solve"
    """solve: answers the problem. verify: says whether a candidate is right. select: picks among several."""
    share: Annotated[int, Field(gt=0, le=1_000)] = 1
    """Of the attempts at its task: roles of one task take turns in this proportion."""
    system_prompt: str | None = None
    user_prompt: str = PROBLEM
    """{problem} stands for the statement; a verifier's has {candidate} (and may have {answer}), a selector's
    {candidates}: the final write-ups, numbered."""
    tools: Tools = "none"
    """How the role runs Python, if it does; see `submission.agents.formats`."""
    rounds: Annotated[int, Field(gt=0, le=1_000)] = 8
    """Code blocks that are run at most."""
    tool_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """A code block."""
    output_chars: Annotated[int, Field(ge=20)] = 2_000
    """Of one output that the model reads."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _prompted(self) -> Self:
        missing = [mark for mark in _NEEDED[self.task] if mark not in self.user_prompt]
        if missing:
            raise ValueError(f"role {self.name!r}: user_prompt of a {self.task} role lacks {missing[0]}")
        return self


class Team(Recipe):
    """The roles that work on every problem."""

    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = (Role(name="solver"),)

    @model_validator(mode="after")
    def _able(self) -> Self:
        names = [role.name for role in self.roles]
        if len(set(names)) < len(names):
            raise ValueError(f"role names must differ: {', '.join(names)}")
        if not self.of("solve"):
            raise ValueError("a team needs a role with task = 'solve'")
        return self

    def of(self, task: Task) -> tuple[Role, ...]:
        """The roles with this task, in order."""
        return tuple(role for role in self.roles if role.task == task)

    def turns(self, task: Task) -> Iterator[Role]:
        """Who makes the next attempt at a task, without end: spread evenly by `share` (Hamilton's way: the
        role that is furthest behind its share is next, the first of them where two are)."""
        roles = self.of(task)
        total = sum(role.share for role in roles)
        given = [0] * len(roles)
        turn = 0
        while roles:
            turn += 1
            behind = [role.share * turn / total - had for role, had in zip(roles, given, strict=True)]
            chosen = behind.index(max(behind))
            given[chosen] += 1
            yield roles[chosen]

    @property
    def uses_tools(self) -> bool:
        """Whether any role runs code."""
        return any(role.tools != "none" for role in self.roles)


def shipped_teams() -> dict[str, Path]:
    """Name to file of the teams that come with the kit."""
    folder = Path(__file__).parent.parent / "teams"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_team(name: str) -> Team:
    """A shipped team by name, or one's own by its file.

    Raises:
        ValueError: there is neither, or the file is no team; names what is shipped.
    """
    shipped = shipped_teams()
    path = shipped.get(name, Path(name))
    if name not in shipped and not path.is_file():
        raise ValueError(f"no team {name!r}: give a TOML file, or one of {', '.join(shipped)}")
    try:
        return Team.parse(tomllib.loads(path.read_text(encoding="utf-8")), f"team {path}")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"team {path} cannot be read: {error}") from None

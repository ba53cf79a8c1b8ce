"""What runs have in common that draw completions from a model: their settings, and how these are given."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from submission.recipes import Recipe
from submission.settings import EngineSettings, SolverSettings

_CONTEST = SolverSettings()
_SAMPLING = "seed temperature top_p min_p max_tokens system_prompt user_prompt last_number"


class DrawingRecipe(Recipe):
    """Which rows of a set, and how completions are drawn, checked and spread."""

    split: str = "train"
    columns: dict[str, str] = Field(default_factory=dict)
    """Field of a record = column of the set."""
    limit: int = Field(default=0, ge=0)
    """Take the first so many rows; 0 takes all."""

    seed: int = 0
    temperature: float = Field(default=_CONTEST.temperature, ge=0)
    top_p: float = Field(default=_CONTEST.top_p, gt=0, le=1)
    min_p: float = Field(default=_CONTEST.min_p, ge=0, le=1)
    max_tokens: int = Field(default=_CONTEST.max_tokens, ge=1)
    """Tokens of a completion; what the context leaves after what it goes on from is the other bound."""
    system_prompt: str = _CONTEST.system_prompt
    """The contest's own, so that the student learns from the prompt it will see."""
    user_prompt: str = "{problem}"
    """The user's turn. Traces keep the bare problem: what a template adds is the teacher's alone."""
    last_number: bool = False
    """Let a completion that states no answer count with its last number, as in the contest's settings."""
    check_seconds: float = Field(default=5.0, gt=0, le=3600)
    """For one symbolic comparison; one that takes longer counts as different."""

    data_parallel: int = Field(default=1, ge=1)
    """Engine processes, each with a share of the rows."""
    engine: EngineSettings = EngineSettings()

    def sampling_identity(self) -> dict[str, Any]:
        """Settings that a completion depends on besides its prompt and number, for `run.json`."""
        return {
            **{name: getattr(self, name) for name in _SAMPLING.split()},
            "engine": self.engine.kind,
            "dtype": self.engine.dtype,
            "max_model_len": self.engine.max_model_len,
        }


def toml_pairs(options: Mapping[str, Any]) -> list[str]:
    """`key=value` overrides of options: as TOML text, so that both pass the same parser.

    JSON's scalars and lists are TOML's; a table gives one override for each of its keys.
    """
    pairs = []
    for key, value in options.items():
        for name, part in value.items() if isinstance(value, dict) else [("", value)]:
            shown = str(part) if isinstance(part, Path) else part
            pairs.append(f"{key}{'.' if name else ''}{name}={json.dumps(shown, ensure_ascii=False)}")
    return pairs


RecipeType = TypeVar("RecipeType", bound=Recipe)


def load_with_options(
    kind: type[RecipeType],
    path: Path | None,
    options: Mapping[str, Any],
    overrides: Iterable[str],
    required: Sequence[str],
) -> RecipeType:
    """A TOML file's settings, then the command line's options, then `key=value` overrides.

    Args:
        required: fields without a default, asked for by the name of their option.

    Raises:
        ValueError: one of them is not given, or a key or value is not valid.
    """
    try:
        return kind.load(path, [*toml_pairs(options), *overrides])
    except ValueError as error:
        for name in required:
            if f"{name}: Field required" in str(error):
                raise ValueError(f"no {name}: give --{name}") from None
        raise

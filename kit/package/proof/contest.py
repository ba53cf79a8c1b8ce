"""What a contest's rules ask of a bundle, as a file (`kit/package/contests`)."""

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from submission.recipes import Recipe

FOLDER = Path(__file__).resolve().parents[1] / "contests"


class Contest(Recipe):
    """The rules of one contest. Empty and zero: not known, which the build tells and does not judge."""

    name: str
    source: str
    """Where the rules were read, and when."""
    dataset_gb: Annotated[float, Field(ge=0)] = 0.0
    """Gigabytes (1e9 bytes) of the whole upload."""
    file_gb: Annotated[float, Field(ge=0)] = 0.0
    """Of one file."""
    licenses: tuple[str, ...] = ()
    """Of models and of the data that they were trained on, as model cards name them."""
    released_before: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""
    """Day (YYYY-MM-DD) before which the models must have come out."""
    answer_min: int
    answer_max: int
    problems: Annotated[int, Field(ge=0)] = 0
    hours: Annotated[float, Field(ge=0)] = 0.0
    """From the start of the notebook to its end."""
    engine: Literal["cpu", "cuda"] = "cuda"
    accelerator: str = ""
    accelerators: Annotated[int, Field(ge=0)] = 0
    accelerator_gib: Annotated[float, Field(ge=0)] = 0.0
    """Memory of each."""
    image: str = ""
    """Of `kit/package/images`."""

    @field_validator("released_before", mode="before")
    @classmethod
    def _day(cls, value: object) -> object:
        # TOML reads a bare 2026-03-15 as a date.
        return value.isoformat() if isinstance(value, date) else value


def load_contest(name: str, overrides: Iterable[str] = ()) -> Contest:
    """A shipped contest by its name, or a TOML file by its path (ValueError where there is none)."""
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"no contest {name!r}: name one of {', '.join(shipped())}, or a TOML file like those"
        )
    return Contest.load(path, overrides)


def shipped() -> list[str]:
    """Names of the shipped contests."""
    return sorted(item.stem for item in FOLDER.glob("*.toml"))

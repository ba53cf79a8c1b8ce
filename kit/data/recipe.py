"""The recipe of `python -m kit.data`: which sets, which steps in which order, where to."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.data.sources import Source
from kit.data.steps.base import Step
from kit.data.steps.contamination import Contamination
from kit.data.steps.difficulty import Difficulty
from kit.data.steps.duplicates import Duplicates
from kit.data.steps.language import Language
from kit.data.steps.length import Length
from kit.data.steps.verify import Verify
from submission.recipes import Recipe

StepName = Literal["length", "language", "verify", "duplicates", "contamination", "difficulty"]


class DataRecipe(Recipe):
    """Everything that a cleaned set depends on."""

    out: Path = Path("runs/data")
    """Folder of the result."""
    root: Path = Path()
    """Folder that the paths of local sets are relative to."""
    sources: dict[str, Source] = Field(min_length=1)
    """The sets, by name, read in this order; of duplicates the first is kept."""
    steps: tuple[StepName, ...] = ("length", "language", "verify", "duplicates", "contamination")
    """Cleaning steps in order; one that is not named is not taken."""

    length: Length = Length()
    language: Language = Language()
    verify: Verify = Verify()
    duplicates: Duplicates = Duplicates()
    contamination: Contamination = Contamination()
    difficulty: Difficulty = Difficulty()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        twice = sorted({name for name in self.steps if self.steps.count(name) > 1})
        if twice:
            raise ValueError(f"steps names {twice[0]!r} twice")
        if "contamination" in self.steps and not self.contamination.against:
            raise ValueError(
                "steps names 'contamination', but contamination.against has no test set: "
                "name one, or leave the step out"
            )
        return self

    def chosen(self) -> list[tuple[StepName, Step]]:
        """The steps in order, ready to be applied."""
        return [(name, self._step(name)) for name in self.steps]

    def _step(self, name: StepName) -> Step:
        if name == "contamination":
            return self.contamination.model_copy(update={"root": self.root / self.contamination.root})
        step: Step = getattr(self, name)
        return step

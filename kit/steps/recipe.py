"""What a run of step labels depends on."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from kit.steps.labels import Search
from kit.steps.rounds import Policy
from kit.steps.stopping import Design, needed_successes
from kit.traces.drawing import DrawingRecipe, load_with_options
from kit.traces.recipe import TraceRecipe, fingerprint, resolved, teacher_name

FORMAT = 1
Share = Annotated[float, Field(ge=0, le=1)]


class StepsRecipe(DrawingRecipe):
    """A model, traces, and how roll-outs are drawn and turned into labels."""

    model: Path
    """Folder of the checkpoint that rolls out."""
    traces: str
    """File, folder or hub name with problems, gold answers and completions; see `kit.data.readers`."""
    out: Path = Path("runs/steps")

    rollouts: int = Field(default=8, ge=1, le=4_096)
    """Of a prefix, at most."""
    threshold: Share = 0.125
    """A step is right where at least this share of all roll-outs is, and at least one: with 8 roll-outs 1/8
    means any, Math-Shepherd's rule, and it means the same rate with 32."""
    first_wave: int = Field(default=4, ge=1)
    """Roll-outs of a prefix before it is first decided whether to go on."""
    wave: int = Field(default=1, ge=1)
    """Roll-outs between later decisions; those that no outcome could make the last are drawn together."""
    adaptive: bool = True
    """Stop when the label of all roll-outs is clear enough; false draws every one."""
    agreement: float = Field(default=0.955, ge=0.5, le=1)
    """Share of adaptive labels that should be those of all roll-outs; 1 stops on certainty alone."""
    spend: Share = 0.3
    """Share of all roll-outs that is drawn even where fewer seem to do: a pilot's figures are estimates."""
    pilot: int = Field(default=32, ge=1)
    """Prefixes of the first round, which stop on certainty alone and teach the later ones."""
    audit: Share = 0.02
    """Share of later prefixes that stop on certainty alone: they keep the rules honest and measure them."""
    search: Search = "all"
    """`all`: every step; `first_error`: bisection, where one error makes all later steps wrong."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.sampling()  # its checks are these fields', too
        if self.temperature == 0 and self.rollouts > 1:
            raise ValueError("temperature 0 draws one roll-out over and over: give --temperature, such as 1")
        return self

    def sampling(self) -> TraceRecipe:
        """The same as a recipe of `kit.traces`, whose engine processes draw the roll-outs."""
        shared = {name: getattr(self, name) for name in DrawingRecipe.model_fields}
        return TraceRecipe(teacher=self.model, dataset=self.traces, out=self.out, **shared)

    def policy(self) -> Policy:
        """How it decides."""
        needed = needed_successes(self.rollouts, self.threshold)
        return Policy(
            Design(self.rollouts, needed, self.wave, min(self.first_wave, self.rollouts)),
            self.adaptive,
            self.agreement,
            self.spend,
            self.pilot,
            self.audit,
            self.search,
        )


def resolve(recipe: StepsRecipe) -> StepsRecipe:
    """The recipe with a checked model and an engine that is installed.

    Raises:
        ValueError: the checkpoint cannot be used, or no engine is installed.
    """
    checked = resolved(recipe.sampling())
    update = {"model": checked.teacher, "out": checked.out, "engine": checked.engine}
    return recipe.model_copy(update=update)


def identity(recipe: StepsRecipe) -> dict[str, Any]:
    """What roll-outs depend on besides prefix and number. Labels are made from them again freely."""
    return {
        "format": FORMAT,
        "kind": "steps",
        "model": teacher_name(recipe.model),
        "model_files": fingerprint(recipe.model),
        **recipe.sampling_identity(),
    }


def load_recipe(path: Path | None, options: Mapping[str, Any], overrides: Iterable[str] = ()) -> StepsRecipe:
    """A TOML file's settings, then the command line's options, then `key=value` overrides.

    Raises:
        ValueError: no model or traces are named, or a key or value is not valid.
    """
    return load_with_options(StepsRecipe, path, options, overrides, ("model", "traces"))

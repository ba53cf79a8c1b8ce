"""A pipeline: stages that wait for each other, from a TOML file, submitted with one command.

    out = "runs/pipeline"
    [stages.distill]
    phase = "distill"
    recipe = "kit/recipes/distill_cpu.toml"
    [stages.grpo]
    phase = "grpo"
    recipe = "kit/recipes/grpo_cpu.toml"
    overrides = ["model.path=${distill}/model"]
    after = ["distill"]

`${distill}` is that stage's folder, `${out}` the stage's own: `out` of the stage, or else the pipeline's with
the stage's name behind it. `${stages}` is a JSON file with what each stage that has finished took.
"""

import string
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.launch.resources import Resources
from kit.launch.spec import LAUNCH, MAX_STALLS, JobSpec
from kit.launch.stages import StageFolder
from kit.launch.tasks import Task
from submission.recipes import Recipe

_OWN = ("out", "stages")
"""Placeholders that are no stage's."""


class Stage(Resources):
    """A phase with a recipe, or a plain command on one node; resources left out are the pipeline's."""

    phase: Literal["", "distill", "grpo", "prm", "eval"] = ""
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    """Over the recipe; of eval, the options of `python -m submission`."""
    command: tuple[str, ...] = ()
    """Words, in place of a phase; `python` is the interpreter of the submission."""
    after: tuple[str, ...] = ()
    """Stages that have to succeed first."""
    out: str = ""
    generator_nodes: int = Field(default=0, ge=0)
    max_stalls: int = Field(default=MAX_STALLS, ge=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.phase) == bool(self.command):
            raise ValueError("give a stage either phase (distill, grpo, prm, eval) or command = [words]")
        if self.command and (self.recipe or self.overrides):
            raise ValueError("recipe and overrides belong to a phase; a command has words only")
        if self.command and (self.nodes > 1 or self.ranks_per_node > 1):
            raise ValueError("a command runs once, on one node")
        return self


class Pipeline(Recipe):
    """The file."""

    out: Path = Path("runs/pipeline")
    resources: Resources = Resources()
    """What every stage asks for that does not say otherwise."""
    stages: dict[str, Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for name, stage in self.stages.items():
            if not name.isidentifier() or name in _OWN:
                raise ValueError(
                    f"stage {name!r} needs a name of letters, digits and _, and none of {', '.join(_OWN)}"
                )
            for other in stage.after:
                if other not in self.stages:
                    raise ValueError(
                        f"stage {name} comes after {other!r}, but the stages are {', '.join(self.stages)}"
                    )
        self.order()
        return self

    def order(self) -> list[str]:
        """Stages, each behind all that it comes after; else as in the file."""
        sorter = TopologicalSorter({name: stage.after for name, stage in self.stages.items()})
        try:
            return list(sorter.static_order())
        except CycleError as error:
            raise ValueError(
                f"stages wait for each other in a circle: {' -> '.join(error.args[1])}"
            ) from None


def tasks_of(pipeline: Pipeline, site: Mapping[str, str] | None = None) -> list[Task]:
    """The stages in order, with their placeholders filled in.

    Args:
        site: resources that hold where neither stage nor pipeline says anything.

    Raises:
        ValueError: a placeholder of no stage, or of one that need not be finished by then.
    """
    folders = {
        name: Path(stage.out) if stage.out else pipeline.out / name for name, stage in pipeline.stages.items()
    }
    found = []
    for name in pipeline.order():
        stage = pipeline.stages[name]
        known = {other: folders[other] for other in _before(pipeline.stages, name)}
        own = {"out": folders[name], "stages": StageFolder(pipeline.out).shown}
        fill = partial(_fill, name=name, known={**known, **own}, stages=folders)
        resources = _resources(pipeline, stage, site or {})
        if stage.command:
            command = tuple(fill(word) for word in stage.command)
            record = pipeline.out / LAUNCH / name
            found.append(Task(name, resources, folders[name], None, command, record, stage.after))
        else:
            found.append(_phase(name, stage, resources, folders[name], fill))
    return found


def _phase(name: str, stage: Stage, resources: Resources, out: Path, fill: Callable[[str], str]) -> Task:
    overrides = [fill(override) for override in stage.overrides]
    if stage.phase == "eval":
        if not any(word.partition("=")[0] == "--out" for word in overrides):
            overrides += ["--out", str(out / "submission.parquet")]
    else:
        overrides.append(f"out={out}")
    spec = JobSpec(
        stage.phase,  # type: ignore[arg-type]  # "" is a command's
        Path(fill(str(stage.recipe))) if stage.recipe else None,
        tuple(overrides),
        resources.nodes,
        resources.ranks_per_node,
        stage.generator_nodes,
        stage.max_stalls,
    )
    return Task(name, resources, out, spec, after=stage.after)


def _resources(pipeline: Pipeline, stage: Stage, site: Mapping[str, str]) -> Resources:
    common = pipeline.resources.model_dump(exclude_unset=True)
    own = stage.model_dump(include=stage.model_fields_set & set(Resources.model_fields))
    return Resources.parse({**site, **common, **own}, "a stage's resources")


def _before(stages: Mapping[str, Stage], name: str) -> set[str]:
    """All that is finished when this stage starts."""
    found: set[str] = set()
    waiting = list(stages[name].after)
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += stages[other].after
    return found


def _fill(text: str, *, name: str, known: Mapping[str, Path], stages: Iterable[str]) -> str:
    try:
        return string.Template(text).substitute({key: str(path) for key, path in known.items()})
    except KeyError as error:
        (wanted,) = error.args
        if wanted in stages:
            raise ValueError(
                f"stage {name}: {text!r} uses ${{{wanted}}}, which need not be finished: "
                f"say after = [{wanted!r}]"
            ) from None
        raise ValueError(
            f"stage {name}: {text!r} uses ${{{wanted}}}, but there is no such stage; there are "
            f"{', '.join(stages)}, and $$ is a dollar sign"
        ) from None
    except ValueError:
        raise ValueError(
            f"stage {name}: {text!r} has a lone $; ${{stage}} is a stage's folder, $$ a dollar sign"
        ) from None

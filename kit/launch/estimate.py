"""Whether a recipe is sound and fits its GPUs, asked on the login node: what `kit.train --dry-run` checks.

But for the rows of the set: reading them takes minutes, and memory does not depend on them.
"""

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kit.launch.spec import JobSpec

if TYPE_CHECKING:
    from kit.distill.recipe import DistillRecipe
    from kit.grpo.recipe import GrpoRecipe
    from kit.prm.recipe import PrmRecipe
    from kit.training.recipe import TrainRecipe

_DATA = (".jsonl", ".json", ".csv", ".parquet")


def check_recipe(spec: JobSpec, gpus: int = 0, *, model: str = "", made: Collection[Path] = ()) -> None:
    """Refuse a training job that cannot work.

    Args:
        gpus: in all; 0 takes the recipe's `assume.gpus`.
        model: in place of `model.path`, where that is not there yet: one of the same shape.
        made: folders that earlier jobs fill; data in them need not be there yet.

    Raises:
        ValueError: a bad value, data or a model that is not there, or memory that cannot do.
    """
    recipe = spec.load_recipe()
    _check_data(spec, recipe, made)
    changed: dict[str, Any] = {}
    assume = recipe.assume  # type: ignore[attr-defined]  # every phase has the section
    if gpus:
        assume = assume.model_copy(update={"gpus": gpus})
    if spec.phase != "grpo" and not assume.rows:
        # The work is then of one row and is not shown; the memory is the run's own.
        assume = assume.model_copy(update={"rows": 1, "mean_tokens": float(recipe.batch.max_length)})
    changed["assume"] = assume
    if model:
        changed["model"] = recipe.model.model_copy(update={"path": model})
    with contextlib.redirect_stdout(io.StringIO()):
        _print(spec, recipe.model_copy(update=changed))


def _check_data(spec: JobSpec, recipe: "TrainRecipe", made: Collection[Path]) -> None:
    data: Any = recipe.data  # type: ignore[attr-defined]  # every phase has the section
    for key in ("path", "validation"):
        place = Path(getattr(data, key, "") or ".")
        if (
            place.suffix in _DATA
            and not place.exists()
            and not any(place.is_relative_to(one) for one in made)
        ):
            raise ValueError(f"{spec.recipe}: data.{key} {place} is not there")


def _print(spec: JobSpec, recipe: "TrainRecipe") -> None:
    if spec.phase == "distill":
        from kit.distill.plan import print_plan as print_distill

        print_distill(cast("DistillRecipe", recipe))
    elif spec.phase == "grpo":
        from kit.grpo.plan import print_plan as print_grpo

        print_grpo(cast("GrpoRecipe", recipe))
    else:
        from kit.prm.plan import print_plan as print_prm

        print_prm(cast("PrmRecipe", recipe))

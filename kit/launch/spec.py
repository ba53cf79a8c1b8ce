"""What a job is: its phase, recipe and layout, as arguments after a script's name and as a typed value.

    sbatch --nodes=4 slurm/grpo.sbatch kit/recipes/grpo_qwen32b.toml --generator-nodes 2 optimizer.lr=1e-6

Everything after the script is `JobSpec.to_args()`; how many nodes there are is sbatch's to say. Light: it
loads neither torch nor the phase before a recipe is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from kit.training.recipe import TrainRecipe

Phase = Literal["distill", "grpo", "prm", "eval"]
PHASES: tuple[Phase, ...] = get_args(Phase)
LAUNCH = "launch"
"""Folder under a run's output folder: the record of attempts, and a folder for each with its logs."""
MAX_STALLS = 3
OPTIONS = {
    "--ranks-per-node": "ranks_per_node",
    "--generator-nodes": "generator_nodes",
    "--max-stalls": "max_stalls",
}
"""The launcher's own options after a recipe, each with a number, and the field that each sets."""


@dataclass(frozen=True)
class JobSpec:
    """One job.

    Args:
        phase: distill, grpo and prm train by a recipe; eval plays a contest with a bundle, on one node.
        recipe: TOML file of a training phase; None for eval.
        overrides: `section.key=value` over the recipe; of eval, the options of `python -m submission`.
        nodes: of the allocation, those that generate included.
        ranks_per_node: processes a node; 0 is one a GPU, and one where the job has no GPUs.
        generator_nodes: of grpo: so many of the last nodes serve engines, the others train; 0 leaves the
            sampling to where the recipe puts it.
        max_stalls: starts in a row without a newer checkpoint after which the job is not requeued any more.

    Raises:
        ValueError: these do not go together.
    """

    phase: Phase
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    nodes: int = 1
    ranks_per_node: int = 0
    generator_nodes: int = 0
    max_stalls: int = MAX_STALLS

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"there is no phase {self.phase!r}: take one of {', '.join(PHASES)}")
        for name, least in (("nodes", 1), ("ranks_per_node", 0), ("generator_nodes", 0), ("max_stalls", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{_dashed(name)} {value} must be {least} or more")
        if self.phase == "eval":
            self._check_eval()
        elif self.recipe is None:
            raise ValueError(f"{self.phase} needs a recipe: a TOML file such as those in kit/recipes")
        if self.generator_nodes and self.phase != "grpo":
            raise ValueError(f"--generator-nodes is grpo's: {self.phase} draws no samples")
        if self.generator_nodes >= self.nodes:
            raise ValueError(
                f"--generator-nodes {self.generator_nodes} of {self.nodes} nodes leaves none to train: "
                f"ask for more nodes, as in sbatch --nodes={self.generator_nodes + 1}"
            )

    def _check_eval(self) -> None:
        if self.recipe is not None:
            raise ValueError(f"eval takes no recipe ({self.recipe}): it takes --bundle B --problems P")
        if self.nodes != 1:
            raise ValueError(f"eval plays on one node, as the contest does, not on {self.nodes}")
        for name in ("--bundle", "--problems"):
            if not self.option(name):
                raise ValueError(f"eval needs {name}: it plays a contest of a bundle on a file of problems")

    @classmethod
    def parse(cls, args: Sequence[str], nodes: int = 1) -> "JobSpec":
        """The job of these arguments: phase, recipe, then options and overrides in any order.

        Raises:
            ValueError: naming what is wrong and the valid choices.
        """
        if not args or args[0] not in PHASES:
            given = repr(args[0]) if args else "nothing"
            raise ValueError(f"the first argument must be a phase, {', '.join(PHASES)}, not {given}")
        phase: Phase = args[0]
        options, rest = _options(args[1:])
        recipe = None
        if phase != "eval":
            if not rest or rest[0].startswith("-") or "=" in rest[0]:
                raise ValueError(f"{phase} needs a recipe first: a TOML file such as those in kit/recipes")
            recipe, rest = Path(rest[0]), rest[1:]
            for word in rest:
                if word.startswith("-") or "=" not in word:
                    raise ValueError(
                        f"{word!r} is neither an override (section.key=value) nor one of "
                        f"{', '.join(OPTIONS)}; sbatch's own options stand before the script"
                    )
        return cls(phase, recipe, tuple(rest), nodes, **options)

    def to_args(self) -> list[str]:
        """What `parse` reads back, but for `nodes`."""
        words: list[str] = [self.phase]
        if self.recipe is not None:
            words.append(str(self.recipe))
        for option, name in OPTIONS.items():
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                words += [option, str(value)]
        return [*words, *self.overrides]

    @property
    def script(self) -> str:
        """The batch script, from the repository's root. Its arguments are `to_args()[1:]`."""
        return f"slurm/{self.phase}.sbatch"

    @property
    def training_nodes(self) -> int:
        """Nodes that train."""
        return self.nodes - self.generator_nodes

    def option(self, name: str) -> str:
        """What stands behind `name` in eval's options; empty without it."""
        for index, word in enumerate(self.overrides):
            if word == name:
                return self.overrides[index + 1] if index + 1 < len(self.overrides) else ""
            if word.startswith(name + "="):
                return word.partition("=")[2]
        return ""

    def load_recipe(self) -> "TrainRecipe":
        """The phase's recipe with the overrides, checked.

        Raises:
            ValueError: as `Recipe.load` does.
        """
        if self.phase == "distill":
            from kit.distill.recipe import DistillRecipe as Chosen
        elif self.phase == "grpo":
            from kit.grpo.recipe import GrpoRecipe as Chosen  # type: ignore[assignment]
        else:
            assert self.phase == "prm", "eval has no recipe"
            from kit.prm.recipe import PrmRecipe as Chosen  # type: ignore[assignment]
        return Chosen.load(self.recipe, self.overrides)

    @property
    def out(self) -> Path:
        """What the job writes: a training phase's run folder, or eval's submission file."""
        if self.phase == "eval":
            return Path(self.option("--out") or "submission.parquet")
        return self.load_recipe().out

    @property
    def launch_folder(self) -> Path:
        """Where record and logs of the job's attempts are; see `kit.launch.attempts`."""
        if self.phase == "eval":
            return self.out.with_suffix(f".{LAUNCH}")
        return self.out / LAUNCH


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _options(words: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The launcher's own options, and all other words in their order."""
    found: dict[str, int] = {}
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name not in OPTIONS:
            rest.append(word)
            continue
        if not equals:
            value = left.pop(0) if left else ""
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{name} wants a number, not {value!r}")
        found[OPTIONS[name]] = int(value)
    return found, rest

"""What a trace run depends on, and what makes two runs the same run."""

import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from kit.traces.drawing import DrawingRecipe, load_with_options
from kit.traces.selection import DEFAULT_KEEP, Select
from kit.traces.topk import MAX_VOCABULARY
from submission.checkpoint import inspect, read_json
from submission.files import write_text

FORMAT = 1
_SAMPLE = 1 << 20


class TraceRecipe(DrawingRecipe):
    """A teacher, a set of problems, and how samples are drawn, chosen and scored."""

    teacher: Path
    """Folder of the teacher's checkpoint."""
    dataset: str
    """File or hub name, as `kit.data.readers` takes it."""
    out: Path = Path("runs/traces")

    samples: int = Field(default=4, ge=1, le=1_000_000)
    """Samples a problem. More of them later go on from what is there."""
    select: Select = "all"
    keep: Annotated[int, Field(ge=1)] | None = None
    """Correct traces a problem at most; None: all of them, 1 shortest, 2 diverse ones."""
    keep_wrong: bool = False
    """Also write every sample that was not verified as right, marked `correct: false`."""

    top_k: int = Field(default=0, ge=0)
    """Teacher's log-probabilities kept beside each token; 0 keeps none."""
    top_k_temperatures: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0, 2.0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.user_prompt.count("{problem}") != 1:
            raise ValueError(f"user_prompt {self.user_prompt[:80]!r} must hold {{problem}} exactly once")
        if len(set(self.top_k_temperatures)) < len(self.top_k_temperatures):
            raise ValueError(f"top_k_temperatures {self.top_k_temperatures} name one twice")
        if self.engine.kind == "replay":
            raise ValueError("engine.kind 'replay' plays recordings; traces need vllm or transformers")
        return self

    @property
    def kept(self) -> int | None:
        """Correct traces a problem at most; None: no limit."""
        return self.keep or DEFAULT_KEEP[self.select]


def resolved(recipe: TraceRecipe) -> TraceRecipe:
    """The recipe with a checked teacher and an engine that is installed.

    Raises:
        ValueError: the checkpoint cannot be used, no engine is installed, or top_k does not fit the teacher.
    """
    teacher = recipe.teacher.resolve()
    inspect(teacher)
    if recipe.top_k:
        check_vocabulary(teacher, recipe.top_k)
    engine = recipe.engine
    if engine.kind == "vllm" and importlib.util.find_spec("vllm") is None:
        engine = engine.model_copy(update={"kind": "transformers"})
    if importlib.util.find_spec("transformers") is None:
        raise ValueError("neither vllm nor transformers is installed: install an extra (cuda, cpu or hf)")
    return recipe.model_copy(update={"teacher": teacher, "out": recipe.out.resolve(), "engine": engine})


def check_vocabulary(teacher: Path, top_k: int) -> None:
    """Refuse a teacher whose vocabulary top-k files cannot hold, before hours of sampling."""
    config = read_json(teacher / "config.json")
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if isinstance(size, int) and size > MAX_VOCABULARY:
        raise ValueError(
            f"--top-k: the vocabulary of {teacher.name} has {size} tokens, over {MAX_VOCABULARY} (2^18), "
            "what a top-k file holds; leave --top-k out and distil online from this teacher"
        )
    if isinstance(size, int) and top_k > size:
        raise ValueError(f"--top-k {top_k} is more than the {size} tokens of {teacher.name}")


def identity(recipe: TraceRecipe) -> dict[str, Any]:
    """What a sample depends on besides its problem and attempt. Selection and top-k are made again freely."""
    place = Path(recipe.dataset)
    return {
        "format": FORMAT,
        "teacher": teacher_name(recipe.teacher),
        "teacher_files": fingerprint(recipe.teacher),
        "dataset": place.name if place.exists() else recipe.dataset,
        "split": recipe.split,
        "columns": recipe.columns,
        **recipe.sampling_identity(),
    }


@functools.cache
def teacher_name(folder: Path) -> str:
    """As the checkpoint calls itself, else its folder's name."""
    return inspect(folder).name


def claim(folder: Path, current: Mapping[str, Any], *, write: bool = True) -> None:
    """Make `folder` this run's, or see that it is already.

    Raises:
        ValueError: it holds another run, or files of something else; the message names what differs.
    """
    path = folder / "run.json"
    if path.exists():
        held = read_json(path)
        held = held if isinstance(held, dict) else {}
        wanted = json.loads(json.dumps(current))
        differing = [
            f"{key} is {str(held.get(key))[:80]!r} there and {str(wanted.get(key))[:80]!r} here"
            for key in [*wanted, *(key for key in held if key not in wanted)]
            if held.get(key) != wanted.get(key)
        ]
        if differing:
            raise ValueError(
                f"--out {folder} holds another run: {'; '.join(differing)}; give another --out, or that "
                "run's settings to go on with it"
            )
    elif folder.exists() and any(item.name != ".lock" for item in folder.iterdir()):
        raise ValueError(f"--out {folder} is not empty and holds no trace run; give a new folder")
    elif write:
        write_text(path, json.dumps(current, indent=1) + "\n")


def fingerprint(folder: Path) -> str:
    """Of a checkpoint's files: names, sizes, and the first and last MiB of each. A copy has the same one."""
    digest = hashlib.sha256()
    for name in inspect(folder).files:
        path = folder / name
        size = path.stat().st_size
        digest.update(f"{name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(_SAMPLE, size - _SAMPLE))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def load_recipe(path: Path | None, options: Mapping[str, Any], overrides: Iterable[str] = ()) -> TraceRecipe:
    """A TOML file's settings, then the command line's options, then `key=value` overrides.

    Raises:
        ValueError: no teacher or data set is named, or a key or value is not valid.
    """
    return load_with_options(TraceRecipe, path, options, overrides, ("teacher", "dataset"))

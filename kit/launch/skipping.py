"""Which stages of a pipeline have to run: those whose inputs have changed, and all behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kit.launch.fingerprint import Parts, changed, fingerprint_of, parts_of
from kit.launch.records import Cluster
from kit.launch.spec import LAUNCH
from kit.launch.stages import Done, Plan, Planned, StageFolder, StageWork, now
from kit.launch.tasks import Task

_TOLD = 4  # changes of a stage that are named


@dataclass(frozen=True)
class Choice:
    """What becomes of a pipeline's stages.

    Args:
        tasks: that run, waiting for each other alone: what they need besides is there.
        skipped: names of the others.
        why: the reason of every task that runs.
        usual: seconds that a stage took when it last succeeded, by name.
    """

    tasks: tuple[Task, ...]
    skipped: tuple[str, ...]
    why: Mapping[str, str]
    usual: Mapping[str, float]
    plan: Plan


def choose(
    tasks: Sequence[Task], pipeline: Path, root: Path, *, cluster: Cluster = "slurm", fresh: bool = False
) -> Choice:
    """Compare every stage with the record of its last success.

    Args:
        tasks: of the pipeline, each behind those that it comes after.
        pipeline: its folder.
        root: of the code that will run.
        fresh: run all.

    Raises:
        ValueError: a recipe cannot be read.
    """
    folder, turn = StageFolder(pipeline), now()
    by_name = {task.name: task for task in tasks}
    fingerprints: dict[str, str] = {}
    running: list[Task] = []
    why: dict[str, str] = {}
    usual: dict[str, float] = {}
    for task in tasks:
        before = {name: fingerprints[name] for name in task.after if name in fingerprints}
        parts = parts_of(task, by_name, before, root, pipeline / LAUNCH)
        fingerprints[task.name] = fingerprint_of(parts)
        done = folder.done(task.name)
        if done is not None:
            usual[task.name] = done.seconds
        reason = "--fresh" if fresh else _reason(task, done, parts, why, folder)
        if not reason:
            continue
        why[task.name] = reason
        work = StageWork(
            name=task.name,
            pipeline=pipeline.absolute(),
            out=task.out.absolute(),
            keep="" if task.spec is None or task.spec.phase == "eval" else "model",
            parts=parts,
            fingerprint=fingerprints[task.name],
            after=tuple(before),
            turn=turn,
            fresh=fresh,
            alone=cluster != "slurm" or task.spec is None,
        )
        waits = tuple(name for name in task.after if name not in by_name or name in why)
        running.append(replace(task, after=waits, stage=work))
    skipped = tuple(name for name in by_name if name not in why)
    planned = tuple(
        Planned(
            name=task.name,
            after=task.after,
            command=task.words,
            out=str(task.out.absolute()),
            skipped=task.name in skipped,
        )
        for task in tasks
    )
    return Choice(tuple(running), skipped, why, usual, Plan(turn=turn, stages=planned))


def _reason(
    task: Task, done: Done | None, parts: Parts, running: Mapping[str, str], folder: StageFolder
) -> str:
    """Why a stage has to run; empty where what it would make is there."""
    if done is None:
        begun = folder.begun(task.name)
        return "goes on" if begun is not None and begun.fingerprint == fingerprint_of(parts) else "is new"
    differs = changed(done.parts, parts)
    own = [name for name in differs if not name.startswith("stage ")]
    if own:
        rest = f" and {len(own) - _TOLD} more" if len(own) > _TOLD else ""
        return f"changed: {', '.join(own[:_TOLD])}{rest}"
    before = [name for name in task.after if name in running]
    if before or differs:
        return f"comes after {', '.join(before) or 'other stages'}"
    for name in task.after:
        earlier = folder.done(name)
        if earlier is not None and done.after.get(name) != earlier.finished:
            return f"{name} has run since"
    missing = done.missing(task.out)
    return f"{missing} is not as it was left" if missing else ""

"""One thing to submit: a phase on its nodes, or a plain command on one, with what it needs."""

from dataclasses import dataclass
from pathlib import Path

from kit.launch.resources import Resources
from kit.launch.spec import JobSpec
from kit.launch.stages import StageWork


@dataclass(frozen=True)
class Task:
    """What runs as one job.

    Args:
        name: as `status` shows it.
        spec: the phase; None for a plain command.
        command: of a plain command: its words; `python` is the interpreter of the submission.
        record: of a plain command: folder of its record, which its own output folder may not want.
        out: the run's folder (of a file, its folder).
        after: names of tasks of the same submission, or ids of jobs, that have to succeed first.
        stage: of a pipeline: how its job records it.
    """

    name: str
    resources: Resources
    out: Path
    spec: JobSpec | None = None
    command: tuple[str, ...] = ()
    record: Path | None = None
    after: tuple[str, ...] = ()
    stage: StageWork | None = None

    def __post_init__(self) -> None:
        assert (self.spec is None) == bool(self.command) == bool(self.record), (
            "a task is a phase or a command"
        )

    @property
    def words(self) -> tuple[str, ...]:
        """What it runs, as one would write it."""
        return self.command if self.spec is None else ("kit.launch", *self.spec.to_args())

    @property
    def launch(self) -> Path:
        """Folder of its attempts and logs."""
        if self.record is not None:
            return self.record
        assert self.spec is not None
        return self.spec.launch_folder

    @property
    def ranks(self) -> int:
        """GPUs, or processes without GPUs, that train, on all nodes together; 0 where that is not known."""
        if self.spec is None or self.spec.phase == "eval":
            return 0
        return self.spec.training_nodes * (self.spec.ranks_per_node or self.resources.gpus_per_node)

"""What a job asks of the cluster, and sbatch's parameters for it."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from kit.launch.check import Request
from kit.launch.durations import minutes_of
from submission.recipes import Recipe

_MEMORY = re.compile(r"(\d+)([KMGT]?)B?", re.ASCII | re.IGNORECASE)
_MIB = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}

OURS = {
    "nodes": "--nodes",
    "ntasks-per-node": "--ranks-per-node",
    "gpus-per-node": "--gpus-per-node",
    "cpus-per-task": "--cpus-per-node",
    "partition": "--partition",
    "account": "--account",
    "time": "--time",
    "mem": "--mem",
    "job-name": "--name",
    "dependency": "--after",
    "array": "--array",
    "signal": "--signal-seconds",
}
"""sbatch options that have an option of the launcher."""
_NAMES = (
    "begin clusters comment constraint container contiguous core-spec cpu-freq cpus-per-gpu deadline "
    "distribution exclude exclusive export gpu-bind gpu-freq gres gres-flags hint hold licenses mail-type "
    "mail-user mem-bind mem-per-cpu mem-per-gpu mincpus network nice nodelist oversubscribe power prefer "
    "priority profile propagate qos reboot reservation switches threads-per-core tmp use-min-nodes "
    "wait-all-nodes"
)
FURTHER = _NAMES.split()
"""What --slurm takes: sbatch's long options but for those that would change how the launcher itself works."""


SITE = {
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "time": "SBATCH_TIMELIMIT",
    "mem": "SBATCH_MEM_PER_NODE",
    "gpus_per_node": "SBATCH_GPUS_PER_NODE",
}
"""Variables of sbatch, as slurm/site.env sets them, that hold where nothing else is said."""


def site_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Resources that the shell's variables name."""
    return {key: environment[name] for key, name in SITE.items() if environment.get(name)}


class Resources(Recipe):
    """What a job asks for. 0 and empty ask for nothing: the partition's default holds."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    nodes: int = Field(default=1, ge=1)
    ranks_per_node: int = Field(default=0, ge=0)
    """Processes a node; 0 is one a GPU, and one without GPUs."""
    gpus_per_node: int = Field(default=0, ge=0)
    cpus_per_node: int = Field(default=0, ge=0)
    mem: str = ""
    """Of a node, as Slurm writes it: 64G, 500M; 0 is all of it."""
    time: str = "4h"
    """4h, 90 (minutes), 1d12h, 2-00:00:00. A run that needs longer goes on by itself in its next turn."""
    partition: str = ""
    account: str = ""
    signal_seconds: int = Field(default=120, ge=1)
    """Before the time limit: so long a checkpoint may take."""
    slurm: dict[str, str] = Field(default_factory=dict)
    """Any further sbatch option: qos, constraint, reservation, ..."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        minutes_of(self.time)
        _mebibytes(self.mem)
        for key in self.slurm:
            check_option(key)
        return self

    @property
    def request(self) -> Request:
        """What the cluster is asked whether it has it."""
        return Request(
            nodes=self.nodes,
            gpus_per_node=self.gpus_per_node,
            cpus_per_node=self.cpus_per_node,
            memory=_mebibytes(self.mem),
            minutes=minutes_of(self.time),
            partition=self.partition or None,
        )

    def parameters(self) -> dict[str, Any]:
        """submitit's parameters of a Slurm job, without name, setup and dependency."""
        further: dict[str, Any] = {key: value or True for key, value in self.slurm.items()}
        # Here and not as submitit's own `nodes`: it would wait for a result of every node, and one writes it.
        further |= {"nodes": self.nodes, "ntasks-per-node": 1}
        further |= {"requeue": True, "kill-on-invalid-dep": "yes"}
        given = {
            "partition": self.partition,
            "account": self.account,
            "mem": self.mem,
            "gpus_per_node": self.gpus_per_node,
            "cpus_per_task": self.cpus_per_node,
        }
        return {
            **{key: value for key, value in given.items() if value},
            "time": minutes_of(self.time),
            "wckey": None,
            "additional_parameters": further,
        }


def option(text: str) -> tuple[str, str]:
    """Key and value of `--slurm key=value`; a key alone is a switch, such as `exclusive`.

    Raises:
        ValueError: sbatch has no such option, or the launcher has one for it.
    """
    key, _, value = text.partition("=")
    key = key.strip().removeprefix("--").replace("_", "-")
    check_option(key)
    return key, value.strip()


def check_option(key: str) -> None:
    """Refuse what is no option of sbatch, naming all that are, close ones first."""
    if key in OURS:
        raise ValueError(f"--slurm {key}: give {OURS[key]} instead")
    if key not in FURTHER:
        close = difflib.get_close_matches(key, FURTHER, n=3)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        names = close + [name for name in FURTHER if name not in close]
        raise ValueError(
            f"--slurm {key}: unknown parameter{hint}; valid are {', '.join(names)}; and as options of their "
            f"own {', '.join(sorted(set(OURS.values())))}"
        )


def _mebibytes(text: str) -> int:
    """Memory that Slurm writes so; 0 where none is asked for."""
    if not text:
        return 0
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"mem {text!r} is not of a form such as 64G or 500M")
    return int(int(match[1]) * _MIB[match[2].upper()])

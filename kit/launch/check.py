"""What the cluster has, by `sinfo`, and whether a request can ever run there: asked before a submission."""

import difflib
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from kit.launch.durations import limit_of

FORMAT = "%P|%N|%T|%c|%m|%l|%s|%G"
_GPUS = re.compile(r"gpu(?::[^:,()]+)?:(\d+)", re.ASCII)
_AWAY = ("down", "drain", "fail", "maint", "power", "unk", "inval", "no_respond", "reboot")


class NoSlurmError(ValueError):
    """There is no Slurm on this machine."""


@dataclass(frozen=True)
class Node:
    """A node as `sinfo` describes it; `memory` in MiB."""

    name: str
    state: str
    cpus: int
    memory: int
    gpus: int

    @property
    def usable(self) -> bool:
        """Whether it takes jobs now or when it is free again."""
        return not self.state.lower().startswith(_AWAY) and not self.state.endswith("*")


@dataclass(frozen=True)
class Partition:
    """A partition; `minutes` and `most_nodes` are its limits for one job, None where it has none."""

    name: str
    default: bool
    minutes: int | None
    most_nodes: int | None
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Request:
    """What one job asks for; 0 asks for nothing in particular. `memory` in MiB a node."""

    nodes: int
    gpus_per_node: int = 0
    cpus_per_node: int = 0
    memory: int = 0
    minutes: int = 0
    partition: str | None = None


def ask_cluster() -> dict[str, Partition]:
    """The cluster's partitions.

    Raises:
        ValueError: there is no Slurm here, or it does not answer.
    """
    if shutil.which("sinfo") is None:
        raise NoSlurmError("no Slurm here (sinfo is not on PATH); --cluster local runs on this machine")
    command = ["sinfo", "--noheader", "--Node", f"--format={FORMAT}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError("sinfo does not answer within 60 s: is the Slurm controller up?") from None
    if done.returncode:
        raise ValueError(f"sinfo failed: {done.stderr.strip() or done.returncode}")
    return parse_sinfo(done.stdout)


def parse_sinfo(text: str) -> dict[str, Partition]:
    """Partitions by name from lines of `FORMAT`, one a node and partition."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.strip()]
    nodes: dict[str, list[Node]] = {}
    heads: dict[str, tuple[bool, int | None, int | None]] = {}
    for name, node, state, cpus, memory, limit, size, gres in rows:
        bare = name.removesuffix("*")
        heads[bare] = name.endswith("*"), limit_of(limit), _most(size)
        gpus = sum(int(count) for count in _GPUS.findall(gres))
        nodes.setdefault(bare, []).append(Node(node, state, _number(cpus), _number(memory), gpus))
    return {name: Partition(name, *heads[name], tuple(found)) for name, found in nodes.items()}


def check(request: Request, partitions: Mapping[str, Partition]) -> list[str]:
    """Raise where the request can never run; return what may keep it waiting, in sentences.

    Raises:
        ValueError: the message names what was asked, what there is, and what would fit.
    """
    partition = _partition(request.partition, partitions)
    limit = partition.minutes
    if limit is not None and request.minutes > limit:
        fits = [
            one.name for one in partitions.values() if one.minutes is None or one.minutes >= request.minutes
        ]
        raise ValueError(
            f"--time is {request.minutes} minutes, but partition {partition.name} ends jobs after {limit}"
            + (f"; longer ones: {', '.join(fits)}" if fits else "")
        )
    if partition.most_nodes is not None and request.nodes > partition.most_nodes:
        raise ValueError(
            f"--nodes {request.nodes}: partition {partition.name} gives a job {partition.most_nodes} at most"
        )
    fitting = _fitting(request, partition)
    usable = [node for node in fitting if node.usable]
    if len(usable) >= request.nodes:
        return []
    away = ", ".join(f"{node.name} is {node.state}" for node in fitting if not node.usable)
    return [
        f"only {len(usable)} of the {request.nodes} nodes can be had now ({away}); the job waits for them"
    ]


def _partition(wanted: str | None, partitions: Mapping[str, Partition]) -> Partition:
    if wanted is None:
        found = [partition for partition in partitions.values() if partition.default]
        if not found:
            raise ValueError(
                f"the cluster has no default partition: give --partition, one of {', '.join(partitions)}"
            )
        return found[0]
    if wanted not in partitions:
        close = difflib.get_close_matches(wanted, partitions, n=3)
        names = close + [name for name in partitions if name not in close]
        raise ValueError(f"--partition {wanted}: there is none of that name; there are {', '.join(names)}")
    return partitions[wanted]


def _fitting(request: Request, partition: Partition) -> list[Node]:
    """Nodes of the partition that have what is asked of each, whatever their state."""
    demands = (
        ("--gpus-per-node", request.gpus_per_node, "gpus", "GPUs"),
        ("--cpus-per-node", request.cpus_per_node, "cpus", "CPUs"),
        ("--mem", request.memory, "memory", "MiB of memory"),
    )
    fitting = list(partition.nodes)
    asked = ""
    for option, value, field, unit in demands:
        if not value:
            continue
        most = max((getattr(node, field) for node in partition.nodes), default=0)
        if value > most:
            raise ValueError(
                f"{option} {value}: no node of partition {partition.name} has more than {most} {unit}"
            )
        fitting = [node for node in fitting if getattr(node, field) >= value]
        asked += f" with {value} {unit}"
    if request.nodes > len(fitting):
        raise ValueError(
            f"--nodes {request.nodes}: partition {partition.name} has {len(fitting)} nodes{asked}"
        )
    return fitting


def _most(size: str) -> int | None:
    """The most nodes of a job, from "1-infinite", "1-8" or "4"."""
    last = size.rpartition("-")[2]
    return int(last) if last.isdecimal() else None


def _number(text: str) -> int:
    """`sinfo` writes "64+" where the nodes of a line differ, and "N/A" where it does not know."""
    digits = text.rstrip("+")
    return int(digits) if digits.isdecimal() else 0

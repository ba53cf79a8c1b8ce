"""The contest's process of a fault run: the server itself, with an engine that fails and a machine that does.

Forked from a process that has imported everything, so that hundreds of runs do not pay for imports.
"""

import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faulty import FACTORY, ByteEncoder, FaultyEngine
from submission import serve
from submission.agents.team import Role, Team
from submission.degrade import Serving
from submission.engines.supervised import SupervisedEngine
from submission.settings import (
    BudgetSettings,
    ContestRules,
    ContestSettings,
    EngineSettings,
    SandboxSettings,
    SolverSettings,
    SupervisionSettings,
)
from submission.setup import Setup

MARK = "AIMO_FAULT_RUN"
"""Environment variable that names a run's processes."""
DISK_BYTES = 4_096
"""Of any file, where the disk is full."""


def settings_of(problems: int, limit: float, *, tools: bool) -> ContestSettings:
    """A contest of seconds."""
    role = Role(name="coder", tools="fenced", tool_seconds=2.0) if tools else Role(name="solver")
    return ContestSettings(
        rules=ContestRules(time_limit=limit, expected_problems=problems),
        budget=BudgetSettings(reserve=0.5, floor=0.2, cap=limit / 2),
        solver=SolverSettings(num_agents=3, agree=3, max_tokens=150, system_prompt=""),
        team=Team(roles=(role,)),
        engine=EngineSettings(max_model_len=4_000, max_num_seqs=8),
        supervision=SupervisionSettings(
            start_limit=limit / 3, silence=0.8, memory_gib=0.4, restart_seconds=1.0, healthy_seconds=60.0
        ),
        sandbox=SandboxSettings(workers=3, preload=("math",)),
    )


def serve_run(
    folder: Path, socket: Path, settings: ContestSettings, fault: str, mark: str, *, supervised: bool = True
) -> None:
    """Serve one run until the driver ends this process.

    Args:
        folder: holds the engine's script, and gets journal and logs.
        socket: where to listen.
        settings: of the contest.
        fault: what is wrong with the machine: "full disk", "clock", or something that is none of its.
        mark: names the run in the environment of every process that it starts.
        supervised: False has the engine in this process, as public notebooks have theirs.
    """
    log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, errors="replace", closefd=False)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    os.environ[MARK] = mark
    os.environ[serve.PARENT] = str(os.getppid())
    if fault == "full disk":
        # Files end there with an error, as on a disk without room.
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, DISK_BYTES))
    if fault == "clock":
        _jumping_clock()
    setup = Setup(settings, folder, None, "fault run", "digest")
    serve.serve_rehearsal(setup, folder / "journal.jsonl", socket, None, _engine if supervised else _bare)


def _engine(
    settings: ContestSettings,
    model: Path,
    *,
    log: Path,
    seconds_left: Callable[[], float],
    on_fault: Callable[[str, str], None],
    bundle: Path | None,  # noqa: ARG001 - the signature of `make_supervised`
) -> SupervisedEngine:
    return SupervisedEngine(
        Serving(model, settings.engine),
        settings.supervision,
        log=log,
        seconds_left=seconds_left,
        on_fault=on_fault,
        factory=FACTORY,
        encoder=ByteEncoder,
    )


class _Bare(FaultyEngine):
    """The engine with its tokenizer, in the contest's own process."""

    def __init__(self, settings: ContestSettings, model: Path) -> None:
        super().__init__(settings.engine, model)
        encoder = ByteEncoder(Serving(model, settings.engine))
        self.encode_chat = encoder.encode_chat
        self.count_tokens = encoder.count_tokens
        self.encode_text = encoder.encode_text
        self.encode_markup = encoder.encode_markup
        self.decode_text = encoder.decode_text


def _bare(settings: ContestSettings, model: Path, **_: Any) -> _Bare:
    return _Bare(settings, model)


class _JumpingTime:
    """Python's time, but that the date jumps by days, forwards and back."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch, or so it says."""
        passed = time.monotonic() - self._begun
        return time.time() + (200_000.0 if 0.5 < passed < 1.5 else -300_000.0 if passed >= 1.5 else 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def _jumping_clock() -> None:
    """Nothing of ours that counts seconds may care for the date.

    Of ours alone: gRPC asks Python and the system for the time, and a jump of one of the two is none of the
    clock.
    """
    jumping = _JumpingTime()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "submission" and getattr(module, "time", None) is time:
            vars(module)["time"] = jumping

"""How fast a process reward model scored, from the journals of recorded contests."""

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.run.gathering import gather
from submission.journal import read_journal


def recorded_prm_speed(folders: Sequence[Path]) -> float:
    """Completion tokens a second over all scored problems; 0 where no journal tells how long scoring took.

    In turns with the engine on a GPU or beside it; beside it, an engine that samples meanwhile slows it down.

    Args:
        folders: of runs of `benchmarks.run`.
    """
    tokens, seconds = 0, 0.0
    for journal in (path for folder in folders for path in _journals(folder)):
        for problem in gather(read_journal(journal)).problems.values():
            if problem.answer is not None and problem.answer.scoring > 0:
                seconds += problem.answer.scoring
                tokens += sum(one.line.tokens for one in problem.samples if one.steps)
    return tokens / seconds if tokens and math.isfinite(seconds) else 0.0


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("contests/*/submission.journal.jsonl"))

"""What to serve after failures: each rung of the ladder asks less of the machine than the one before.

Pure: the first arrangement and a count in, an arrangement out. What was given up stays given up, so that
the last rungs are those that stand on the weakest machine.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from submission.settings import EngineSettings

PATIENCE = 2
"""Failures that one arrangement may have before the next one takes its place."""
LEAST_CONTEXT = 8_192
"""Tokens; a shorter context is not cut further, since hardly a solution fits into half of it."""


@dataclass(frozen=True)
class Serving:
    """What an engine serves, and how.

    Args:
        model: the checkpoint's folder, None for recorded samples.
        settings: of the engine.
        second: another checkpoint, to be served where this one cannot be.
    """

    model: Path | None
    settings: EngineSettings
    second: Path | None = None


def degrade(first: Serving, failures: int) -> Serving | None:
    """The arrangement to start after this many failures; None: give up.

    Args:
        first: what was asked for.
        failures: 0 or more; every `PATIENCE` of them lead one rung down: half the batch, half the context,
            no compilation, the second model. Rungs that would change nothing are left out.
    """
    if failures < 0:
        raise ValueError(f"failures {failures} must not be negative")
    rungs = ladder(first)
    step = failures // PATIENCE
    return rungs[step] if step < len(rungs) else None


def next_rung(failures: int) -> int:
    """The count of failures that leaves the present arrangement for the next one."""
    return (failures // PATIENCE + 1) * PATIENCE


def forgive(failures: int) -> int:
    """The count of failures after a long time without any: the rung stays, its failures are forgotten."""
    return failures // PATIENCE * PATIENCE


def ladder(first: Serving) -> tuple[Serving, ...]:
    """All arrangements, the one that was asked for first."""
    rungs = [first]
    for step in (_smaller_batch, _shorter_context, _eager, _second_model):
        lower = step(rungs[-1])
        if lower != rungs[-1]:
            rungs.append(lower)
    return tuple(rungs)


def _smaller_batch(serving: Serving) -> Serving:
    return _with(serving, max_num_seqs=max(1, serving.settings.max_num_seqs // 2))


def _shorter_context(serving: Serving) -> Serving:
    length = serving.settings.max_model_len
    return _with(serving, max_model_len=max(min(length, LEAST_CONTEXT), length // 2))


def _eager(serving: Serving) -> Serving:
    # None means eager on a CPU already; asking for it once more costs one rung and is right everywhere.
    return _with(serving, enforce_eager=True)


def _second_model(serving: Serving) -> Serving:
    if serving.second is None:
        return serving
    return replace(serving, model=serving.second, second=None)


def _with(serving: Serving, **changes: object) -> Serving:
    return replace(serving, settings=serving.settings.model_copy(update=changes))

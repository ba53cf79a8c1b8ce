"""The contest's engine under supervision, as its settings ask for it."""

from collections.abc import Callable
from pathlib import Path

from submission.degrade import Serving
from submission.engines import Engine, make_engine
from submission.engines.supervised import SupervisedEngine
from submission.settings import ContestSettings


def make_supervised(
    settings: ContestSettings,
    model: Path | None,
    *,
    log: Path,
    seconds_left: Callable[[], float],
    on_fault: Callable[[str, str], None],
    bundle: Path | None = None,
) -> Engine:
    """The engine that a contest uses: supervised, unless it plays recorded samples or the settings say no.

    Args:
        settings: of the contest.
        model: the checkpoint's folder, None for recorded samples.
        log: what the engine's processes print is appended there.
        seconds_left: time left in the contest.
        on_fault: called in the engine's loop with what happened and its details, for the journal.
        bundle: where a relative `supervision.second_model` lies.

    Raises:
        ValueError: there is no model, or the second one is not there.
    """
    supervision = settings.supervision
    # Recorded samples run on clocks of their own, and hold nothing that could fail.
    if settings.engine.kind == "replay" or not supervision.enabled or model is None:
        return make_engine(settings.engine, model)
    second = supervision.second_model
    if second is not None:
        second = (bundle or Path()) / second
        if not (second / "config.json").is_file():
            raise ValueError(f"supervision.second_model {second}: no config.json there; name a checkpoint")
    return SupervisedEngine(
        Serving(model, settings.served, second),
        supervision,
        log=log,
        seconds_left=seconds_left,
        on_fault=on_fault,
    )

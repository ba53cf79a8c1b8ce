"""Metrics to TensorBoard, Weights & Biases or Trackio, on request. Rank 0 only.

`metrics.jsonl` is the record; a tracker is a copy for looking at. So a package that is missing or a service
that cannot be reached is an error before the run starts, and once it runs a tracker that fails is dropped.
"""

import hashlib
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


@dataclass(frozen=True)
class _Tracker:
    name: str
    write: Callable[[int, dict[str, float]], object]
    """Step, and finite or non-finite numbers by name."""
    close: Callable[[], object]


@dataclass(frozen=True)
class _Run:
    """What a tracker shows a run as."""

    project: str
    name: str
    folder: Path
    config: dict[str, Any]
    resume_step: int | None

    @property
    def id(self) -> str:
        """The same for every start of the run in this folder."""
        return hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]


def check_trackers(names: Sequence[str]) -> None:
    """ValueError if a tracker's package is not installed. Cheap: nothing is imported."""
    for name in names:
        if name not in _PACKAGES:
            raise ValueError(f"logging.trackers: {name!r} is none of {', '.join(_PACKAGES)}")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"logging.trackers has {name!r}, whose package is not installed: pip install -e '.[trackers]'"
            )


class Trackers:
    """Sends the same records to all trackers in `names`; none is fine.

    Args:
        folder: of the run; TensorBoard's and wandb's files lie in it, and the run's id comes from it.
        name: of the run; empty takes the folder's.
        config: the recipe, as JSON values.
        resume_step: the step that the run goes on from, or None for a new run.

    Raises:
        ValueError: a package is missing, or a tracker does not start. At resume the latter only costs the
            tracker: a requeued run must not end because a service is away.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        project: str,
        name: str,
        folder: Path,
        config: Mapping[str, Any],
        resume_step: int | None = None,
    ) -> None:
        check_trackers(names)
        folder = Path(folder)
        run = _Run(project, name or folder.resolve().name, folder, dict(config), resume_step)
        start = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
        self._trackers: list[_Tracker] = []
        for wanted in dict.fromkeys(names):
            try:
                self._trackers.append(start[wanted](run))
            except Exception as error:
                if resume_step is None:
                    self.close()
                    raise ValueError(f"logging.trackers: {wanted} does not start: {error}") from error
                log.warning("tracker %s does not start and is left out: %s", wanted, error)

    @property
    def active(self) -> list[str]:
        """Names of those still written to."""
        return [tracker.name for tracker in self._trackers]

    def write(self, step: int, values: Mapping[str, Any], kind: str = "train") -> None:
        """Send the numbers among `values`, as `kind/name`. Never raises."""
        numbers = {
            f"{kind}/{name}": float(value) for name, value in values.items() if isinstance(value, float | int)
        }
        if not numbers:
            return
        for tracker in list(self._trackers):
            self._guard(tracker, lambda tracker=tracker: tracker.write(step, numbers))  # type: ignore[misc]

    def close(self) -> None:
        """Finish all. Never raises."""
        for tracker in list(self._trackers):
            self._guard(tracker, tracker.close)
        self._trackers.clear()

    def _guard(self, tracker: _Tracker, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever a tracker does, training goes on
            self._trackers.remove(tracker)
            log.warning("tracker %s failed and is dropped; metrics.jsonl goes on: %s", tracker.name, error)


def _tensorboard(run: _Run) -> _Tracker:
    from torch.utils.tensorboard import SummaryWriter

    purge = None if run.resume_step is None else run.resume_step + 1
    writer = SummaryWriter(log_dir=str(run.folder / "tensorboard"), purge_step=purge)
    if run.resume_step is None:
        writer.add_text("recipe", f"```json\n{json.dumps(run.config, indent=1, default=str)}\n```")

    def write(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return _Tracker("tensorboard", write, writer.close)


def _wandb(run: _Run) -> _Tracker:
    import wandb

    session = wandb.init(
        project=run.project,
        name=run.name,
        id=run.id,
        resume="allow",
        dir=str(run.folder),
        config=run.config,
        settings=wandb.Settings(silent=True, console="off", login_timeout=30),
    )
    # wandb's own step never goes back, but a resumed run's does.
    session.define_metric("*", step_metric="step")
    return _Tracker("wandb", lambda step, numbers: session.log({"step": step} | numbers), session.finish)


def _trackio(run: _Run) -> _Tracker:
    import trackio

    session = trackio.init(
        project=run.project,
        name=f"{run.name}-{run.id[:6]}",
        resume="allow",
        config=run.config,
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )

    def write(step: int, numbers: dict[str, float]) -> None:
        # Its JSON has no name for them.
        session.log({name: value for name, value in numbers.items() if math.isfinite(value)}, step=step)

    return _Tracker("trackio", write, session.finish)

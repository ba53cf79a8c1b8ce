"""The trained scorer as a Hugging Face folder with its `prm.json`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kit.prm.heads import SCALARS, Scalars
from kit.training.card import carried_card
from kit.training.chat import Chat
from kit.training.checkpoint_files import Damaged, read_manifest, step_folder, steps_in
from kit.training.checkpoints import Checkpoint
from kit.training.engines.base import TrainEngine
from kit.training.export import export
from kit.training.ranks import Ranks
from kit.training.start import Started
from submission.prm.heads import PRM_FILE, PrmConfig

if TYPE_CHECKING:
    import torch


class _Weights:
    """An engine's weights without the wrapper's own parameters, which are kept as numbers."""

    def __init__(self, engine: TrainEngine) -> None:
        self._engine = engine
        self.scalars = dict.fromkeys(SCALARS, 0.0)

    def weights(self) -> "Iterator[tuple[str, torch.Tensor]]":
        """See `TrainEngine.weights`."""
        for name, tensor in self._engine.weights():
            if name in self.scalars:
                self.scalars[name] = float(tensor)
            else:
                yield name, tensor


def export_scorer(
    started: Started,
    chat: Chat,
    form: PrmConfig,
    base: Path,
    folder: Path,
    ranks: Ranks,
    scalars: Scalars,
    fitted: tuple[float, float],
) -> None:
    """Write `folder` in one rename, `prm.json` in it. Collective; see `kit.training.export.export`.

    Args:
        base: the model that was trained.
        scalars: of `logprob`.
        fitted: scale and bias over the model's log-odds.
    """
    weights = _Weights(started.engine)

    def beside() -> dict[str, str]:
        scale, bias = fitted
        if form.head == "logprob":
            first, shift = scalars.now(**weights.scalars)
            scale, bias = scale * first, scale * shift + bias
        told = form.model_copy(update={"scale": scale, "bias": bias})
        text = json.dumps(PrmConfig.model_validate(told.model_dump()).model_dump(), indent=1)
        return {**carried_card(base, "prm"), PRM_FILE: text + "\n"}

    engine = cast("TrainEngine", weights)
    export(engine, started.model, started.adapted, chat, folder, ranks, beside)


def load_best(folder: Path, engine: TrainEngine, ranks: Ranks, *, lower_is_better: bool) -> int:
    """Give the engine the best checkpoint's weights; returns its step, 0 where none was evaluated.

    Of several that are equally good it is the latest. Collective.
    """
    rated: list[tuple[float, int]] = []
    newest = 0
    for step in steps_in(folder) if ranks.main else []:
        with contextlib.suppress(Damaged):
            metric = read_manifest(step_folder(folder, step)).metric
            newest = step
            if metric is not None:
                rated.append((-metric if lower_is_better else metric, step))
    best = int(ranks.most(max(rated)[1] if rated else 0))
    if best and best != int(ranks.most(newest)):
        path = step_folder(folder, best)
        manifest = read_manifest(path)
        state: Any = manifest.state
        checkpoint = Checkpoint(
            path=path,
            step=best,
            world_size=manifest.world_size,
            state=manifest.state,
            metric=manifest.metric,
            readers=ranks.world_size,
        )
        engine.load_state(checkpoint.tensors(), int(str(state["updates"])))
    return best

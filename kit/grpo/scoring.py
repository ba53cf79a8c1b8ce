"""Log-probabilities of given completions under a model, without gradients: the policy's own before its first
update, and the reference's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from kit.grpo.objective import ScoreOnly
from kit.grpo.rows import PolicyRow
from kit.training.ranks import Ranks
from kit.training.recipe import MicroSection
from kit.training.steps import micro_batches


def with_scores(
    rows: Sequence[PolicyRow],
    module: Any,
    field: Literal["old", "reference"],
    *,
    temperature: float,
    vocabulary: int,
    batch: MicroSection,
    ranks: Ranks,
    share: bool = False,
) -> list[PolicyRow]:
    """The rows with `field` filled in. Collective.

    Rows are cut into micro-batches as the training of these very rows will cut them, so that the policy's
    first ratio is exactly 1, rounding included. Time: a forward pass. Sent between ranks: 8 bytes a token.
    """
    import torch

    numbered = [replace(row, source=index) for index, row in enumerate(rows)]
    objective = ScoreOnly(temperature, vocabulary)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for micro in micro_batches(numbered, batch, ranks, share=share):
                module(micro, objective.token_loss(micro))
    finally:
        module.train(was_training)
    counts = [int(row.mask.sum()) for row in rows]
    ends = np.cumsum(counts)
    table = torch.zeros(int(ends[-1]), dtype=torch.float64)
    for index, values in objective.found.items():
        table[ends[index] - counts[index] : ends[index]] = torch.from_numpy(values)
    if ranks.world_size > 1:
        import torch.distributed as dist

        table = table.to(ranks.device)
        dist.all_reduce(table)  # every token is one rank's; the others add zeros
        table = table.cpu()
    parts = np.split(table.numpy(), ends[:-1])
    pairs = zip(rows, parts, strict=True)
    if field == "old":
        return [replace(row, old=part) for row, part in pairs]
    return [replace(row, reference=part) for row, part in pairs]

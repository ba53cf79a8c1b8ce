"""Completions of the model in training, for on-policy steps: batched, seeded by row, on every engine.

Each row draws from its own generator, so what it gets does not depend on the batch (but for rounding) nor on
the number of ranks. The forward passes of a partitioned model are collective: all ranks go on until the last
row of any rank has ended. Memory: the key-value cache of a rank's rows; time: one forward pass a token.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kit.training.batches import collate
from kit.training.ranks import Ranks
from kit.training.rows import TokenRow
from submission.engines.base import Sampling
from submission.engines.token_sampling import next_tokens


def sample_rows(
    module: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    end_id: int,
    vocabulary: int,
    ranks: Ranks,
) -> list[list[int]]:
    """A completion for every prompt, known to all ranks; each rank samples its share. Collective.

    Args:
        module: the wrapped model, or the engine that partitions it.
        prompts: token ids, the same on all ranks.
        seeds: one a prompt.
        sampling: temperature and `max_tokens`.
        end_id: ends a completion, and is its last token then.
        vocabulary: number of real tokens; the head's rows beyond it pad it, and stand for nothing.
    """
    mine = range(ranks.rank, len(prompts), ranks.world_size)
    ours, drawn = [prompts[i] for i in mine], [seeds[i] for i in mine]
    sampled = _decode(module, ours, drawn, sampling, end_id, vocabulary, ranks)
    return _exchange(sampled, len(prompts), sampling.max_tokens, ranks)


def _decode(
    module: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    end_id: int,
    vocabulary: int,
    ranks: Ranks,
) -> list[list[int]]:
    """Left-padded batch with a key-value cache; a rank without prompts runs along on a token of its own."""
    import torch

    device = ranks.device
    generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    rows = [list(prompt) for prompt in prompts] or [[end_id]]
    width = max(len(row) for row in rows)
    ids = torch.tensor([[end_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    done = [not prompts] * len(rows)
    completions: list[list[int]] = [[] for _ in prompts]
    cache: Any = None
    for _ in range(sampling.max_tokens):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits, cache = module(collate((), device), None, (ids, mask, positions, cache))
        if prompts:
            tokens, _logprobs = next_tokens(logits[:, :vocabulary], [sampling] * len(rows), generators)
        else:
            tokens = [end_id]
        for index, token in enumerate(tokens):
            if not done[index]:
                completions[index].append(token)
                done[index] = token == end_id
        if ranks.most(0.0 if all(done) else 1.0) == 0.0:
            break
        ids = torch.tensor(tokens, device=device).unsqueeze(1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return completions


def _exchange(sampled: list[list[int]], count: int, width: int, ranks: Ranks) -> list[list[int]]:
    """Every rank's completions on every rank: rank r has those of prompts r, r + world size, ..."""
    if ranks.world_size == 1:
        return sampled
    import torch
    import torch.distributed as dist

    share = -(-count // ranks.world_size)
    table = torch.full((share, width + 1), -1, dtype=torch.int64, device=ranks.device)
    for index, ids in enumerate(sampled):
        table[index, : len(ids)] = torch.tensor(ids, device=ranks.device)
    gathered = [torch.empty_like(table) for _ in range(ranks.world_size)]
    dist.all_gather(gathered, table)
    found = []
    for index in range(count):
        row = gathered[index % ranks.world_size][index // ranks.world_size].tolist()
        found.append(row[: row.index(-1)])
    return found


def row_of(prompt: Sequence[int], completion: Sequence[int], source: int) -> TokenRow:
    """A row whose completion is trained."""
    mask = np.zeros(len(prompt) + len(completion), np.uint8)
    mask[len(prompt) :] = 1
    return TokenRow(np.array([*prompt, *completion], np.int32), mask, source)

"""Completions of the model in training, by the very weights that are trained: batched, on every engine.

Each row draws from a random stream of its own (Philox, Salmon et al. 2011), so what it gets does not depend
on the batch (but for rounding), on the number of ranks, or on when it is drawn. Prompts that come several
times are read once and their key-value cache is copied; rows that ended leave the batch. The forward passes
of a partitioned model are collective: all ranks go on until the last row of any rank has ended.

Memory: the key-value cache of `max_rows` rows. Time: one forward pass a token of the longest row of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kit.training.batches import collate
from kit.training.kv_cache import drop_rows
from kit.training.ranks import Ranks
from kit.training.rows import TokenRow
from submission.engines.base import Sampling

if TYPE_CHECKING:
    import torch

_BLOCK = 256
"""Random numbers that a row draws at a time."""


@dataclass(frozen=True)
class Drawn:
    """One completion.

    Args:
        ids: its tokens; the last one ends it unless the limit cut it.
        logprobs: of each, in nats, under the distribution that it was drawn from (0 when greedy).
    """

    ids: list[int]
    logprobs: list[float]


def sample_rows(
    module: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    end_id: int,
    vocabulary: int,
    ranks: Ranks,
    *,
    max_rows: int = 512,
) -> list[Drawn]:
    """A completion for every prompt, known to all ranks; each rank samples its share. Collective.

    Args:
        module: the wrapped model, or the engine that partitions it.
        prompts: token ids, the same on all ranks. Equal ones should follow each other.
        seeds: one a prompt.
        sampling: temperature, top_p, min_p and `max_tokens`; stop strings are not looked for.
        end_id: ends a completion, and is its last token then.
        vocabulary: number of real tokens; the head's rows beyond it pad it, and stand for nothing.
        max_rows: rows of one batch at most.
    """
    import torch

    assert not sampling.stop, "text is not looked at here"
    share = -(-len(prompts) // ranks.world_size)
    mine = range(min(ranks.rank * share, len(prompts)), min((ranks.rank + 1) * share, len(prompts)))
    # Batches of like lengths pad the least.
    order = sorted(mine, key=lambda row: (len(prompts[row]), list(prompts[row]), row))
    batches = [order[begin : begin + max_rows] for begin in range(0, len(order), max_rows)]
    drawn: dict[int, Drawn] = {}
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), module.decoding():
            work = _batches(module, prompts, seeds, sampling, (end_id, vocabulary), ranks, batches, drawn)
            _in_step(work, module, end_id, ranks)
    finally:
        module.train(was_training)
    return _exchange([drawn[row] for row in mine], len(prompts), share, sampling.max_tokens, ranks)


def _in_step(work: Iterator[None], module: Any, filler: int, ranks: Ranks) -> None:
    """Run to the end; with several ranks, one forward pass each until all are there."""
    import torch

    if ranks.world_size == 1:
        for _ in work:
            pass
        return
    one = torch.tensor([[filler]], device=ranks.device)
    busy = next(work, StopIteration) is None
    while ranks.most(float(busy)):
        if busy:
            busy = next(work, StopIteration) is None
        else:  # along with those that are not done
            module(collate((), ranks.device), None, (one, torch.ones_like(one), torch.zeros_like(one), None))


def _batches(
    module: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    tokens: tuple[int, int],
    ranks: Ranks,
    batches: Sequence[Sequence[int]],
    drawn: dict[int, Drawn],
) -> Iterator[None]:
    """Decode batch after batch into `drawn`; yields before every forward pass."""
    for rows in batches:
        found = [Drawn([], []) for _ in rows]
        drawn.update(zip(rows, found, strict=True))
        yield from _decode(
            module,
            [prompts[row] for row in rows],
            [seeds[row] for row in rows],
            sampling,
            tokens,
            ranks,
            found,
        )


def _decode(
    module: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    tokens: tuple[int, int],
    ranks: Ranks,
    found: list[Drawn],
) -> Iterator[None]:
    """One left-padded batch with a key-value cache."""
    import torch

    device = ranks.device
    end_id, vocabulary = tokens
    nothing = collate((), device)
    unique = list(dict.fromkeys(map(tuple, prompts)))
    width = max(map(len, unique))
    ids = torch.tensor([[end_id] * (width - len(row)) + list(row) for row in unique], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in unique], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    yield
    logits, cache = module(nothing, None, (ids, mask, positions, None))
    place = {row: index for index, row in enumerate(unique)}
    rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    if len(unique) < len(prompts):
        cache.batch_select_indices(rows)
    logits, mask, positions = logits[rows], mask[rows], positions[rows][:, -1:]
    streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
    steps: list[_Step] = []
    places = np.arange(len(prompts))
    block = min(_BLOCK, sampling.max_tokens)
    for count in range(sampling.max_tokens):
        if count % block == 0:
            numbers = np.stack([stream.random(block) for stream in streams])
        uniform = torch.from_numpy(numbers[:, count % block]).to(device)
        chosen, logprobs = draw(logits[:, :vocabulary], uniform, sampling)
        steps.append(_Step(places, chosen.cpu().numpy(), logprobs.cpu().numpy()))
        going = chosen != end_id
        if count + 1 == sampling.max_tokens or not going.any():
            break
        if not going.all():
            keep = drop_rows(going)
            cache.batch_select_indices(keep)
            chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
            kept = keep.cpu().numpy()
            places, numbers = places[kept], numbers[kept]
            streams = [streams[index] for index in kept]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = positions + 1
        yield
        logits, cache = module(nothing, None, (chosen.unsqueeze(1), mask, positions, cache))
    _collect(steps, found)


class _Step(NamedTuple):
    """The tokens drawn in one step, [B] each.

    Args:
        places: rows of the batch as it was at first.
    """

    places: "np.ndarray[Any, Any]"
    chosen: "np.ndarray[Any, Any]"
    logprobs: "np.ndarray[Any, Any]"


def _collect(steps: Sequence[_Step], found: Sequence[Drawn]) -> None:
    """From tokens step by step to tokens row by row."""
    places, ids, logprobs = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    order = np.argsort(places, kind="stable")
    ends = np.cumsum(np.bincount(places, minlength=len(found)))[:-1]
    for row, mine, theirs in zip(
        found, np.split(ids[order], ends), np.split(logprobs[order], ends), strict=True
    ):
        row.ids.extend(mine.tolist())
        row.logprobs.extend(theirs.tolist())


def draw(
    logits: "torch.Tensor", uniform: "torch.Tensor", sampling: Sampling
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Draw one token a row by inverting the distribution function.

    Args:
        logits: [B, V], raw.
        uniform: [B] float64 in [0, 1).
        sampling: temperature 0 is greedy; `top_p` (nucleus, Holtzman et al. 2020) keeps the smallest set of
            tokens whose probability reaches it, `min_p` (Nguyen et al. 2024) those with at least that share
            of the best token's probability, both after the temperature.

    Returns:
        Tokens [B] and their log-probabilities [B] under what they were drawn from, nats.
    """
    import torch

    if sampling.temperature == 0:
        greedy = logits.argmax(-1)
        return greedy, torch.zeros_like(greedy, dtype=torch.float64)
    wide = torch.promote_types(logits.dtype, torch.float32)
    probabilities = torch.softmax(logits.to(wide) / sampling.temperature, dim=-1)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= sampling.top_p * ordered.sum(-1, keepdim=True), 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    # In float64: no token of probability 0 is reached by rounding.
    sums = probabilities.double().cumsum(-1)
    total = sums[:, -1:]
    chosen = torch.searchsorted(sums, uniform.unsqueeze(1) * total, right=True)
    chosen = chosen.clamp(max=logits.shape[-1] - 1)
    picked = probabilities.gather(-1, chosen).double()
    return chosen.squeeze(1), (picked / total).log().squeeze(1)


def _exchange(mine: list[Drawn], count: int, share: int, width: int, ranks: Ranks) -> list[Drawn]:
    """Every rank's completions on every rank: rank r has those of prompts r * share and on."""
    if ranks.world_size == 1:
        return mine
    import torch
    import torch.distributed as dist

    longest = int(ranks.most(max((len(row.ids) for row in mine), default=0)))
    assert longest <= width
    ids = torch.full((share, longest + 1), -1, dtype=torch.int64)
    logprobs = torch.zeros((share, longest + 1), dtype=torch.float64)
    for index, row in enumerate(mine):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        logprobs[index, : len(row.ids)] = torch.tensor(row.logprobs, dtype=torch.float64)
    found = []
    for table in (ids.to(ranks.device), logprobs.to(ranks.device)):
        gathered = [torch.empty_like(table) for _ in range(ranks.world_size)]
        dist.all_gather(gathered, table)
        found.append(torch.cat(gathered)[:count].tolist())
    lengths = [row.index(-1) for row in found[0]]
    return [
        Drawn(tokens[:length], values[:length])
        for tokens, values, length in zip(*found, lengths, strict=True)
    ]


def row_of(prompt: Sequence[int], completion: Sequence[int], source: int) -> TokenRow:
    """A row whose completion is trained."""
    mask = np.zeros(len(prompt) + len(completion), np.uint8)
    mask[len(prompt) :] = 1
    return TokenRow(np.array([*prompt, *completion], np.int32), mask, source)

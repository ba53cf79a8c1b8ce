"""The teacher's top-k log-probabilities of finished traces, by forward passes over prompt and completion.

Exact at every listed temperature: the tail's mass is summed from the logits of all real tokens (rows of the
head that pad the vocabulary are cut off before the softmax). One part file holds `PART_ROWS` traces; a part
that is done is not made again.

Time: one forward pass over every token. Memory: weights, the key-value cache of one batch (`BATCH_TOKENS`
tokens, or one longer trace), and logits of at most `POSITIONS` positions at once: POSITIONS * vocabulary *
4 bytes, about three times over (2.5 GB in all for 200,000 tokens); 8 k bytes a token of the batch for what
is found. Disk: `TopKHeader.entry_bytes` a token.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.data.records import Record, TopK, read_records
from kit.traces.recipe import TraceRecipe, teacher_name
from kit.traces.topk import TopKHeader, TopKReader, TopKWriter, vocabulary_digest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

PART_ROWS = 32
BATCH_TOKENS = 16_384
POSITIONS = 1024
FOLDER = "topk"
TRACES = "traces.jsonl"


@dataclass(frozen=True)
class Scored:
    """One trace's N completion tokens: `index` is its place among those given.

    ids int32 [N, k] and logprobs float32 [N, k] (temperature 1, most likely first), and tails float32
    [N, temperatures]: log mass of the other tokens under softmax(z / T).
    """

    index: int
    ids: "NDArray[np.int32]"
    logprobs: "NDArray[np.float32]"
    tails: "NDArray[np.float32]"


def score(
    model: Any,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    k: int,
    temperatures: Sequence[float],
    vocab_size: int,
    batch_tokens: int = BATCH_TOKENS,
    positions: int = POSITIONS,
) -> Iterator[Scored]:
    """Score (prompt ids, completion ids) of several traces, shortest first.

    Args:
        model: a causal model of transformers, in eval mode.
        rows: neither part may be empty.
        k: tokens a position.
        temperatures: of the tails.
        vocab_size: real tokens; logits beyond are cut off.
        batch_tokens: tokens of one batch, padding included; a longer row is a batch of its own.
        positions: positions whose logits exist at once, over the batch.

    Raises:
        ValueError: an empty prompt or completion.
    """
    for prompt, completion in rows:
        if not prompt or not completion:
            raise ValueError("a trace has no prompt or completion ids: top-k needs the teacher's own tokens")
    order = row_order(rows)
    while order:
        batch: list[int] = []
        # Shortest first, so that the newcomer is the longest of the batch.
        while order and (not batch or (len(batch) + 1) * _total(rows[order[0]]) <= batch_tokens):
            batch.append(order.pop(0))
        found = _score_batch(model, [rows[i] for i in batch], k, temperatures, vocab_size, positions)
        for index, (ids, logprobs, tails) in zip(batch, found, strict=True):
            yield Scored(index, ids.numpy(), logprobs.numpy(), tails.numpy())


def row_order(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[int]:
    """The order in which `score` yields rows: by tokens, then by place."""
    return sorted(range(len(rows)), key=lambda index: (_total(rows[index]), index))


def _total(row: tuple[Sequence[int], Sequence[int]]) -> int:
    return len(row[0]) + len(row[1])


def _score_batch(
    model: Any,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    k: int,
    temperatures: Sequence[float],
    vocab_size: int,
    positions: int,
) -> "list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]":
    """Position by position in chunks, through the key-value cache: the logits never exist all at once."""
    import torch

    # The last token predicts nothing that was sampled.
    inputs = [[*prompt, *completion][:-1] for prompt, completion in rows]
    width, device = max(map(len, inputs)), model.device
    chunk = max(1, positions // len(rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in inputs])
    lengths = torch.tensor([[len(row)] for row in inputs])
    starts = torch.tensor([[len(prompt) - 1] for prompt, _ in rows])
    place = torch.arange(width).unsqueeze(0)
    # Padded on the right, behind everything that counts; causal attention does the rest.
    mask = (place < lengths).long().to(device)
    wanted = (place >= starts) & (place < lengths)
    pieces: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in rows]
    cache: Any = None
    with torch.inference_mode():
        for begin in range(0, width, chunk):
            end = min(width, begin + chunk)
            output = model(
                input_ids=ids[:, begin:end].to(device),
                attention_mask=mask[:, :end],
                position_ids=place[:, begin:end].expand(len(rows), -1).to(device),
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            here = wanted[:, begin:end]
            found = top_k_of(output.logits[here.to(device)][:, :vocab_size], k, temperatures)
            del output
            counts = here.sum(1).tolist()
            for row, parts in enumerate(zip(*(part.cpu().split(counts) for part in found), strict=True)):
                pieces[row].append(parts)
    return [tuple(torch.cat(parts) for parts in zip(*row, strict=True)) for row in pieces]


def top_k_of(
    logits: "torch.Tensor", k: int, temperatures: Sequence[float]
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Logits [N, V] to ids int32 [N, k], log-probabilities at T = 1 [N, k], and tails [N, temperatures]."""
    import torch

    logprobs = torch.log_softmax(logits.float(), -1)
    top = logprobs.topk(k, -1)
    rest = logprobs.scatter(-1, top.indices, float("-inf"))
    tails = [
        torch.logsumexp(rest / temperature, -1) - torch.logsumexp(logprobs / temperature, -1)
        for temperature in temperatures
    ]
    # A flat distribution's tail may round to 0, which would leave nothing for the top k.
    return top.indices.int(), top.values, torch.stack(tails, -1).clamp(max=-1e-7)


def part_path(out: Path, part: int) -> Path:
    """File of a part."""
    return out / FOLDER / f"part-{part:05d}.topk"


def parts_of(out: Path) -> Iterator[tuple[int, list[Record]]]:
    """The run's traces in groups of `PART_ROWS`."""
    records = read_records(out / TRACES)
    part = 0
    while group := list(islice(records, PART_ROWS)):
        yield part, group
        part += 1


def header_of(recipe: TraceRecipe, vocabulary: dict[str, int], group: Sequence[Record]) -> TopKHeader:
    """The header that the part of these traces has when it is this recipe's."""
    ids = json.dumps([[record.prompt_ids, record.completion_ids] for record in group])
    return TopKHeader(
        vocab_size=max(vocabulary.values()) + 1,
        k=recipe.top_k,
        temperatures=recipe.top_k_temperatures,
        tokenizer=vocabulary_digest(vocabulary),
        teacher=teacher_name(recipe.teacher),
        content=hashlib.sha256(ids.encode()).hexdigest(),
    )


def is_done(path: Path, header: TopKHeader) -> bool:
    """Whether a whole part with this header lies there."""
    try:
        return TopKReader(path).header == header
    except ValueError:
        return False


def vocabulary_of(teacher: Path) -> dict[str, int]:
    """Token to id, added tokens included."""
    from submission.engines.tokenizer import ChatTokenizer

    return dict(ChatTokenizer(teacher).tokenizer.get_vocab())


def make_parts(recipe: TraceRecipe, out: Path, number: int, workers: int) -> None:
    """Make the missing parts `number`, `number` + `workers`, and so on; each appears whole."""
    vocabulary = vocabulary_of(recipe.teacher)
    model: Any = None
    for part, group in parts_of(out):
        header, path = header_of(recipe, vocabulary, group), part_path(out, part)
        if part % workers != number or is_done(path, header):
            continue
        model = model or load_model(recipe)
        rows = [(record.prompt_ids, record.completion_ids) for record in group]
        with TopKWriter(path, header) as writer:
            for scored in score(
                model, rows, k=header.k, temperatures=header.temperatures, vocab_size=header.vocab_size
            ):
                writer.append(scored.ids, scored.logprobs, scored.tails)


def with_top_k(out: Path) -> Iterator[Record]:
    """The run's traces, each told where its log-probabilities lie."""
    for part, group in parts_of(out):
        rows = [(record.prompt_ids, record.completion_ids) for record in group]
        held = len(TopKReader(part_path(out, part)))
        assert held == len(group), (part, held, len(group))
        place = {index: row for row, index in enumerate(row_order(rows))}
        name = part_path(out, part).relative_to(out).as_posix()
        for index, record in enumerate(group):
            yield record.model_copy(update={"topk": TopK(file=name, row=place[index])})


def load_model(recipe: TraceRecipe) -> Any:
    """The teacher in eval mode, on the GPU if there is one, over several if this process sees several."""
    from submission.offline import go_offline

    go_offline()
    import torch
    from transformers import AutoModelForCausalLM

    cuda = torch.cuda.is_available()
    name = recipe.engine.dtype
    dtype = ("auto" if cuda else torch.float32) if name == "auto" else getattr(torch, name)
    spread = cuda and torch.cuda.device_count() > 1
    model = AutoModelForCausalLM.from_pretrained(
        str(recipe.teacher),
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        device_map="auto" if spread else None,
    ).eval()
    return model if spread or not cuda else model.to("cuda")

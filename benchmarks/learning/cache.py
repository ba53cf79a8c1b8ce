"""The teacher's view of the students' traces, made once: what `kit.traces --top-k` does for a real run."""

import time
from pathlib import Path

from kit.data.records import Record, TopK, read_records, write_records

K = 64
"""Outcomes a token; with 280 bytes a token, as for a large vocabulary."""


def cache_teacher(teacher: Path, traces: Path, out: Path, temperature: float) -> float:
    """Write `out` (records that name their log-probabilities) and the file of these beside it.

    Args:
        teacher: folder of the teacher's checkpoint.
        traces: records with completions.

    Returns:
        CPU-seconds that it took.
    """
    from kit.traces.teacher_pass import score
    from kit.traces.topk import TopKHeader, TopKWriter, vocabulary_digest
    from kit.training.chat import open_chat
    from kit.training.model import load_causal, load_tokenizer
    from kit.training.recipe import ModelSection

    started = time.process_time()
    tokenizer = load_tokenizer(teacher)
    chat = open_chat(tokenizer)
    records = list(read_records(traces))
    rows = [(chat.prompt(record), chat.completion(record)) for record in records]
    model = load_causal(teacher, ModelSection(dtype="float32", attention="sdpa")).eval()
    vocabulary = tokenizer.get_vocab()
    header = TopKHeader(
        vocab_size=len(tokenizer),
        k=min(K, len(tokenizer)),
        temperatures=(temperature,),
        tokenizer=vocabulary_digest(vocabulary),
        teacher=str(teacher.name),
    )
    places: dict[int, int] = {}
    name = f"{out.stem}.topk"
    with TopKWriter(out.with_name(name), header) as writer:
        for found in score(
            model, rows, k=header.k, temperatures=header.temperatures, vocab_size=header.vocab_size
        ):
            places[found.index] = writer.append(found.ids, found.logprobs, found.tails)
    cached: list[Record] = []
    for index, (record, (prompt, completion)) in enumerate(zip(records, rows, strict=True)):
        update = {
            "prompt_ids": tuple(prompt),
            "completion_ids": tuple(completion),
            "topk": TopK(file=name, row=places[index]),
        }
        cached.append(record.model_copy(update=update))
    write_records(out, cached)
    return time.process_time() - started

"""How often a small checkpoint solves held-out problems.

vLLM would take longer to start than these models take to answer, so they are sampled as in training. Answers
are read and compared by `submission.answers`, as in a contest.
"""

from collections.abc import Sequence
from pathlib import Path

from kit.data.records import Record
from kit.training.ranks import Ranks
from kit.training.recipe import ModelSection
from submission.answers import check, parse_gold
from submission.engines.base import Sampling

BATCH = 256


def solved(
    model_folder: Path,
    records: Sequence[Record],
    *,
    temperature: float,
    seed: int,
    max_new_tokens: int = 96,
    samples: int = 1,
) -> list[float]:
    """Share of `samples` completions that give the right answer, for each record.

    Args:
        temperature: 0 decodes greedily; above 0 draws from softmax(logits / temperature), all tokens allowed.
        seed: of the draws; the same seed gives the same completions.
    """
    texts = complete(
        model_folder,
        [record.problem for record in records for _ in range(samples)],
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    right = []
    for number, record in enumerate(records):
        gold = parse_gold(record.answer)
        mine = texts[number * samples : (number + 1) * samples]
        right.append(sum(check(text, gold) for text in mine) / samples)
    return right


def complete(
    model_folder: Path, problems: Sequence[str], *, temperature: float, seed: int, max_new_tokens: int = 96
) -> list[str]:
    """One completion of each problem, the problem given as a user's turn in the model's chat template."""
    import torch

    from kit.training.chat import open_chat
    from kit.training.model import load_causal, load_tokenizer, token_count, wrap
    from kit.training.sampling import sample_rows

    chat = open_chat(load_tokenizer(model_folder))
    model = load_causal(model_folder, ModelSection(dtype="float32", attention="sdpa"))
    drawn = sample_rows(
        wrap(model),
        [chat.prompt(Record(problem=problem)) for problem in problems],
        [(seed << 32) + number for number in range(len(problems))],
        Sampling(temperature=temperature, max_tokens=max_new_tokens),
        chat.end_id,
        token_count(chat.tokenizer),
        Ranks(0, 1, 0, torch.device("cpu")),
        max_rows=BATCH,
    )
    return [str(chat.tokenizer.decode(row.ids, skip_special_tokens=True)) for row in drawn]

"""How often a small checkpoint solves held-out problems: batched decoding with a key-value cache.

vLLM would take longer to start than these models take to answer, so the loop is written out here. Answers are
read and compared by `submission.answers`, as in a contest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.data.records import Record
from submission.answers import check, parse_gold

if TYPE_CHECKING:
    import torch

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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": problem}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )["input_ids"]
        for problem in problems
    ]
    generator = torch.Generator().manual_seed(seed)
    # Batches of like lengths waste the least padding; the order of the draws still depends on nothing else.
    order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
    texts = [""] * len(prompts)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        rows = decode(
            model,
            [prompts[number] for number in chosen],
            pad=tokenizer.pad_token_id,
            end=tokenizer.eos_token_id,
            temperature=temperature,
            generator=generator,
            max_new_tokens=max_new_tokens,
        )
        for number, row in zip(chosen, rows, strict=True):
            texts[number] = tokenizer.decode(row, skip_special_tokens=True)
    return texts


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    pad: int,
    end: int,
    temperature: float,
    generator: "torch.Generator",
    max_new_tokens: int,
) -> list[list[int]]:
    """Token ids after each prompt, up to but without `end`, or `max_new_tokens` of them.

    Prompts are padded on the left. Rows that reached `end` are taken out of the batch.
    """
    import torch
    from transformers import DynamicCache

    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts))
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            reply = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token = _pick(reply.logits[:, -1].float(), temperature, generator)
            going = token != end
            for row, new in zip(alive[going].tolist(), token[going].tolist(), strict=True):
                rows[row].append(new)
            if not going.any():
                break
            if not going.all():
                cache.batch_select_indices(going.nonzero().flatten())
            alive, mask, positions = alive[going], mask[going], positions[going]
            ids = token[going, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions[:, -1:] + 1
    return rows


def _pick(logits: "torch.Tensor", temperature: float, generator: "torch.Generator") -> "torch.Tensor":
    """One token id a row of `logits` [rows, vocabulary]."""
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator).flatten()

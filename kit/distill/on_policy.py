"""On-policy steps (GKD, Agarwal et al. 2024): the student writes, the teacher tells.

With share lambda a whole step's completions are sampled by the student as it is then; which steps follows
from the seed alone, so a resumed run takes the same.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kit.distill.recipe import LossSection
from kit.training.ranks import Ranks
from kit.training.rows import TokenRow, TokenTable
from kit.training.sampling import row_of, sample_rows
from submission.engines.base import Sampling


class MixedRows:
    """Rows of the data, or with share `on_policy` the student's own completions of their prompts.

    Args:
        module: what samples: the wrapped student or its engine.
        end_id: ends a completion.
        vocabulary: number of real tokens; rows of the student beyond it are never sampled.
        longest: tokens of prompt and completion together at most.
    """

    def __init__(
        self,
        table: TokenTable,
        section: LossSection,
        module: Any,
        end_id: int,
        vocabulary: int,
        longest: int,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self._table, self._section, self._module = table, section, module
        self._end_id, self._vocabulary, self._longest = end_id, vocabulary, longest
        self._seed, self._ranks = seed, ranks

    def __call__(self, step: int, numbers: Sequence[int]) -> list[TokenRow]:
        """The rows of a step. Collective on an on-policy step."""
        rows = [self._table[number] for number in numbers]
        if draw(self._seed, step) >= self._section.on_policy:
            return rows
        prompts = [row.ids[: int(np.argmax(row.mask))].tolist() for row in rows]
        room = self._longest - max(len(prompt) for prompt in prompts)
        sampling = Sampling(
            temperature=self._section.on_policy_temperature,
            max_tokens=min(room, self._section.on_policy_max_tokens),
        )
        seeds = [hash_of(self._seed, step, place) for place in range(len(rows))]
        drawn = sample_rows(
            self._module, prompts, seeds, sampling, self._end_id, self._vocabulary, self._ranks
        )
        triples = zip(prompts, drawn, rows, strict=True)
        return [row_of(prompt, completion.ids, row.source) for prompt, completion, row in triples]


def draw(seed: int, step: int) -> float:
    """A number in [0, 1) that belongs to the step."""
    return hash_of(seed, step, -1) / 2**48


def hash_of(seed: int, step: int, place: int) -> int:
    """48 bits that depend on all three."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{place}".encode()).digest()[:6], "big")

"""Take out problems and completions that are too short or too long.

Tokens are those of a given tokenizer, without chat template and end token; a completion that brings its own
`completion_ids` is as long as these. Without a tokenizer, words or characters are counted. Linear time.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.data.records import Record
from kit.data.steps.base import Outcome, Tick, no_tick, sieve
from submission.recipes import Recipe

_BATCH = 64


class Length(Recipe):
    """Settings of the step; 0 is no upper limit. An empty completion is not measured."""

    unit: Literal["tokens", "words", "chars"] = "chars"
    tokenizer: str = ""
    """Local folder or hub name; needed by unit = "tokens"."""
    min_problem: int = Field(default=1, ge=0)
    max_problem: int = Field(default=0, ge=0)
    min_completion: int = Field(default=0, ge=0)
    max_completion: int = Field(default=0, ge=0)
    completion_required: bool = False
    """Drop records without a completion."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.unit == "tokens" and not self.tokenizer:
            raise ValueError('unit = "tokens" needs a tokenizer: the folder or hub name of a model')
        for part, low, high in (
            ("problem", self.min_problem, self.max_problem),
            ("completion", self.min_completion, self.max_completion),
        ):
            if high and low > high:
                raise ValueError(f"min_{part} = {low} is over max_{part} = {high}: nothing could pass")
        return self

    def apply(self, records: Sequence[Record], tick: Tick = no_tick) -> Outcome:
        """Drops say which part is too short or long, and how long it is."""
        problems = self._lengths([record.problem for record in records])
        completions = self._lengths([record.completion for record in records])
        sizes = iter(zip(problems, completions, strict=True))

        def why(record: Record) -> tuple[str, str] | None:
            problem, completion = next(sizes)
            if self.unit == "tokens" and record.completion_ids:
                completion = len(record.completion_ids)
            if not record.completion:
                missing = self.completion_required
                return ("no completion", "") if missing else self._outside("problem", problem)
            return self._outside("problem", problem) or self._outside("completion", completion)

        return sieve(records, why, tick)

    def _outside(self, part: str, size: int) -> tuple[str, str] | None:
        low, high = getattr(self, f"min_{part}"), getattr(self, f"max_{part}")
        if size < low:
            return f"{part} too short", f"{size} {self.unit}, under {low}"
        return (f"{part} too long", f"{size} {self.unit}, over {high}") if high and size > high else None

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        if self.unit == "tokens":
            return _token_counts(texts, self.tokenizer)
        measure: Callable[[str], int] = len if self.unit == "chars" else lambda text: len(text.split())
        return [measure(text) for text in texts]


def _token_counts(texts: Sequence[str], name: str) -> list[int]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"length.tokenizer {name!r} cannot be loaded: {str(error).splitlines()[0]}"
        ) from None
    counts: list[int] = []
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        counts += [len(ids) for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]]
    return counts

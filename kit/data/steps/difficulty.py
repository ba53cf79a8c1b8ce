"""Keep problems that a model solves sometimes: always right teaches nothing, never right gives no signal."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.data.records import Record
from kit.data.steps.base import Outcome, Tick, no_tick, sieve
from submission.recipes import Recipe


class Difficulty(Recipe):
    """Settings of the step; both bounds are included."""

    min_pass_rate: float = Field(default=0.0, ge=0, le=1)
    max_pass_rate: float = Field(default=1.0, ge=0, le=1)
    unknown: Literal["keep", "drop"] = "keep"
    """What happens to records whose pass rate nobody measured."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError(
                f"min_pass_rate = {self.min_pass_rate} is over max_pass_rate = {self.max_pass_rate}: "
                "nothing could pass"
            )
        return self

    def apply(self, records: Sequence[Record], tick: Tick = no_tick) -> Outcome:
        """Drops name the pass rate."""

        def why(record: Record) -> tuple[str, str] | None:
            rate = record.pass_rate
            if rate is None:
                return ("pass rate unknown", "") if self.unknown == "drop" else None
            if rate < self.min_pass_rate:
                return "too hard", f"pass rate {rate:.3f}"
            return ("too easy", f"pass rate {rate:.3f}") if rate > self.max_pass_rate else None

        return sieve(records, why, tick)

"""The `rewards` section of a recipe: which rewards count, with which weight, and their options."""

import re
from typing import Self

from pydantic import Field, model_validator

from kit.rewards.lengths import CosineValues
from kit.rewards.prm import Aggregate
from submission.recipes import Recipe

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


class CosineSection(Recipe):
    """Ends of the two curves of `length_cosine`; its length is the most tokens that a completion may have."""

    right_at_zero: float = 1.0
    right_at_max: float = 0.5
    wrong_at_zero: float = -1.0
    wrong_at_max: float = -0.5
    overlong: float = -1.0
    """From the greatest length on, right or wrong."""

    @property
    def values(self) -> CosineValues:
        """As the function takes them."""
        return CosineValues(**self.model_dump())


class SymbolicSection(Recipe):
    """The comparison of answers that exact rules cannot decide, in processes that are killed on overrun."""

    workers: int = Field(default=2, ge=1)
    timeout: float = Field(default=5.0, gt=0, le=3600)
    """Seconds a comparison; one that takes longer counts as wrong."""


class SandboxSection(Recipe):
    """Where own functions run: processes that are killed on overrun. One call has no memory of another."""

    workers: int = Field(default=2, ge=1)
    """Calls at a time, for each function."""
    timeout: float = Field(default=10.0, gt=0, le=3600)
    """Seconds a call."""
    start_timeout: float = Field(default=120.0, gt=0, le=3600)
    """Seconds for the import of the function's module."""
    memory_gb: float = Field(default=4.0, gt=0)
    """Address space (GiB) that a call may add to what its module's import holds."""


class RewardSection(Recipe):
    """Weights of the rewards, whose weighted sum is the reward of a completion; 0 leaves one out."""

    answer: float = Field(default=1.0, ge=0)
    """1 for a right final answer, else 0."""
    format: float = Field(default=0.0, ge=0)
    """1 for exactly one box (after exactly one thought, with `think`), else 0."""
    length_cosine: float = Field(default=0.0, ge=0)
    """Yeo et al. 2025: see `cosine`."""
    shorter_when_right: float = Field(default=0.0, ge=0)
    """Kimi k1.5's: 0.5 for the shortest of a group to -0.5 for the longest, no gain for wrong ones."""
    repetition: float = Field(default=0.0, ge=0)
    """0 to -1: the share of repeated n-grams among the tokens that the model wrote."""
    tool_success: float = Field(default=0.0, ge=0)
    """Share of tool calls that did not fail; 0 without any."""
    overlong: float = Field(default=0.0, ge=0)
    """DAPO's soft punishment: 0 to -1 over the last `overlong_buffer` tokens."""
    prm: float = Field(default=0.0, ge=0)
    """Score of a process reward model."""
    functions: dict[str, float] = Field(default_factory=dict)
    """Own functions, "package.module:function" = weight. One gets a dict (problem, answer, completion,
    finish, tokens, tool_calls, tool_errors, correct) and returns a number, or None for no reward."""

    accept_cut_off: bool = False
    """A completion that the limit cut may be right."""
    think: bool = False
    """`format` also wants one `<think>...</think>` first."""
    think_in_prompt: bool = False
    """The chat template opens the thought, so the completion may lack `<think>`."""
    cosine: CosineSection = CosineSection()
    ngram: int = Field(default=20, ge=1)
    """Tokens of an n-gram of `repetition`."""
    overlong_buffer: int = Field(default=4096, ge=0)
    """Tokens before the limit over which `overlong` sinks."""
    prm_aggregate: Aggregate = "min"
    """How the scores of the steps become one."""
    symbolic: SymbolicSection = SymbolicSection()
    sandbox: SandboxSection = SandboxSection()

    @property
    def weights(self) -> dict[str, float]:
        """Weight by name of all that count, the built-in ones first, in the order of the fields."""
        built_in = {name: float(getattr(self, name)) for name in BUILT_IN}
        return {name: weight for name, weight in (built_in | self.functions).items() if weight}

    @model_validator(mode="after")
    def _some_reward(self) -> Self:
        for path in self.functions:
            if not _IMPORT_PATH.fullmatch(path):
                raise ValueError(
                    f'functions: {path!r} is no import path; write it as "package.module:function" = weight'
                )
        if not self.weights:
            raise ValueError("all weights are 0; give at least one reward a weight, such as answer = 1.0")
        return self


BUILT_IN = (
    "answer",
    "format",
    "length_cosine",
    "shorter_when_right",
    "repetition",
    "tool_success",
    "overlong",
    "prm",
)
"""Names of the rewards that need no function of one's own."""

"""What a problem's samples and its solution are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from submission.agents.tool_writer import ToolCall
from submission.prm.turns import Turn
from submission.selection.candidate import Candidate

Finish = Literal["running", "stop", "length", "aborted", "error"]
Source = Literal["vote", "partial", "default"]


@dataclass
class Sample:
    """One sample, finished or not.

    Args:
        attempt: its number within the problem.
        role: name of the role that writes it.
        text: what the model wrote, the tool's output left out.
        tokens: of the model's own.
        tool_tokens: of the tool's output.
        seconds: how long it ran.
        logprob: sum over the model's own tokens, nats.
        answer: in the contest's range, or None.
        finish: how it ended.
        error: why it failed, "" if it did not.
        steps: the process reward model's score of each step; empty where unscored.
        calls: what it asked of its tool.
        prompted, cached: tokens of its prompts, and those of them that the engine's prefix cache held.
    """

    attempt: int
    role: str = ""
    text: str = ""
    tokens: int = 0
    tool_tokens: int = 0
    seconds: float = 0.0
    logprob: float = math.nan
    answer: int | None = None
    finish: Finish = "running"
    error: str = ""
    steps: tuple[float, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    prompted: int = 0
    cached: int = 0
    begun: float = field(default=math.nan, repr=False, compare=False)
    """The loop's time of its start."""

    @property
    def ended(self) -> bool:
        """Whether the model ended it, or its own length did: not the time, nor a fault."""
        return self.finish in {"stop", "length"}

    def candidate(self) -> Candidate:
        """As the vote sees it."""
        return Candidate(
            answer=self.answer,
            tokens=self.tokens,
            logprob=self.logprob,
            steps=self.steps,
            finished=self.ended,
            seconds=self.seconds,
        )


@dataclass(frozen=True)
class Opinion:
    """What one verifier or selector said: which answer it is for, and whether it is right."""

    role: str
    task: Literal["verify", "select"]
    answer: int | None
    right: bool | None
    tokens: int
    seconds: float
    text: str = field(repr=False, default="")


@dataclass(frozen=True)
class Solution:
    """What became of a problem.

    Args:
        answer: always an integer in the contest's range.
        source: "vote" (a finished sample answered), "partial" (only cut-off samples had), "default" (none).
        votes: (answer, count), most first: the plain vote.
        samples: every sample that was started, in order of start.
        seconds: wall time of this problem.
        stopped: why no further sample was drawn.
        plain: the plain vote's answer, None without any vote.
        rule: how `answer` was chosen, "majority" for the plain vote.
        totals: (answer, total) under that rule, the chosen one first.
        prm_means: mean aggregated PRM score of each answer; empty where nothing was scored.
        opinions: of verifiers and selectors.
        turn: the PRM's on the GPU that it shares; None where it shares none, or had nothing to decide.
        scoring: seconds in a PRM that takes no turns, for the scores that came.
    """

    answer: int
    source: Source
    votes: tuple[tuple[int, int], ...]
    samples: tuple[Sample, ...]
    seconds: float
    stopped: str
    plain: int | None = None
    rule: str = "majority"
    totals: tuple[tuple[int, float], ...] = ()
    prm_means: Mapping[int, float] = field(default_factory=dict)
    opinions: tuple[Opinion, ...] = ()
    turn: Turn | None = None
    scoring: float = 0.0

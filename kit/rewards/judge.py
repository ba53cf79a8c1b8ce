"""Scores completions: the weighted sum of the rewards that a recipe names, and what went wrong on the way."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

from kit.grpo.rollout import Completion
from kit.grpo.signals import block
from kit.rewards import builtin
from kit.rewards.functions import FunctionPool, Outcome
from kit.rewards.lengths import length_cosine, shorter_when_right
from kit.rewards.prm import PrmReward, StepScorer
from kit.rewards.recipe import RewardSection
from submission.answers import Gold
from submission.parsing.symbolic import SymbolicChecker


@dataclass(frozen=True)
class Sample:
    """What is scored.

    Args:
        problem: its text.
        gold: from `submission.answers.parse_gold`; None where a problem has no reference answer, and then
            every reward that wants one is missing.
        completion: with its text, tokens and tool calls.
        group: completions of one prompt have the same number.
    """

    problem: str
    gold: Gold | None
    completion: Completion
    group: int


@dataclass(frozen=True)
class Scored:
    """Rewards of one sample.

    Args:
        total: the weighted sum; NaN where any part of it is missing.
        parts: by name, before the weight; NaN where missing.
        correct: whether the answer is right; None without a gold answer.
        reason: why the total is missing, else "".
    """

    total: float
    parts: dict[str, float] = field(default_factory=dict)
    correct: bool | None = None
    reason: str = ""


class Judge:
    """The rewards of a recipe, with the processes that they need; a context manager.

    Args:
        section: which rewards, and their options.
        max_completion_tokens: the limit of sampling, to which the length rewards relate.
        step_scorer: gives the steps' scores for `prm`, such as a scorer's `step_scores`
            (`submission.prm.scorer.CheckpointScorer`).

    Raises:
        ValueError: an own function cannot be imported or called, `prm` has a weight but there is no
            `step_scorer`, or the overlong buffer is larger than the limit.
    """

    def __init__(
        self, section: RewardSection, max_completion_tokens: int, step_scorer: StepScorer | None = None
    ) -> None:
        if max_completion_tokens < 1:
            raise ValueError(f"max_completion_tokens is {max_completion_tokens}; it must be at least 1")
        if section.prm and step_scorer is None:
            raise ValueError(f"rewards.prm is {section.prm:g}, but there is no process reward model to score")
        if section.overlong and section.overlong_buffer > max_completion_tokens:
            raise ValueError(
                f"rewards.overlong_buffer is {section.overlong_buffer} tokens, over the "
                f"{max_completion_tokens} that a completion may have; lower it"
            )
        self._section = section
        self._max_length = max_completion_tokens
        self._prm = PrmReward(step_scorer, section.prm_aggregate) if step_scorer else None
        self._weights = section.weights
        self._pools: dict[str, FunctionPool] = {}
        symbolic, sandbox = section.symbolic, section.sandbox
        with contextlib.ExitStack() as stack:
            self._checker = stack.enter_context(SymbolicChecker(symbolic.workers, symbolic.timeout))
            self._threads = stack.enter_context(
                # The checker's processes are started in these threads.
                ThreadPoolExecutor(symbolic.workers, thread_name_prefix="answer", initializer=block)
            )
            # Before the threads are waited for, comparisons under way are cut off.
            stack.callback(self._checker.close)
            for path in section.functions:
                if path in self._weights:
                    self._pools[path] = stack.enter_context(FunctionPool(path, **sandbox.model_dump()))
            self._stack = stack.pop_all()

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Rewards of each sample, in order. They depend on the samples alone, not on workers or timing.

        Two exceptions, both counted in `report`: what takes longer than its limit on a busy machine, and
        whatever an own function reads from outside (files, the clock).

        Args:
            samples: whole groups, where a reward compares within the group.

        Raises:
            RuntimeError: the judge is closed, or a worker cannot be started.
        """
        correct = self._correct(samples)
        parts: dict[str, list[Outcome]] = {}
        for name in self._weights:
            parts[name] = self._part(name, samples, correct)
        return [
            self._scored({name: outcomes[index] for name, outcomes in parts.items()}, correct[index])
            for index in range(len(samples))
        ]

    def report(self) -> dict[str, int]:
        """Counts since the start.

        Returns:
            `answer.comparisons`, `answer.timeouts`, `answer.crashes` of the symbolic checker, the last two of
            which count as wrong; of each own function `<path>.calls`, and of the calls whose reward is
            missing `<path>.timeout`, `.crash`, `.error`, `.invalid`, `.none`.
        """
        counts = {
            "answer.comparisons": self._checker.comparisons,
            "answer.timeouts": self._checker.timeouts,
            "answer.crashes": self._checker.crashes,
        }
        for path, pool in self._pools.items():
            counts |= {f"{path}.{kind}": count for kind, count in pool.counts.items()}
        return counts

    def close(self) -> None:
        """End all processes; idempotent."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _correct(self, samples: Sequence[Sample]) -> list[bool | None]:
        """Most are decided here at once; only what is left to algebra goes to the checker's processes."""
        correct: list[bool | None] = []
        undecided = []
        for index, sample in enumerate(samples):
            probe = _Probe()
            correct.append(self._right(sample, cast("SymbolicChecker", probe)))
            if probe.asked and not correct[-1]:
                undecided.append(index)
        answers = self._threads.map(lambda index: self._right(samples[index], self._checker), undecided)
        for index, right in zip(undecided, answers, strict=True):
            correct[index] = right
        return correct

    def _right(self, sample: Sample, checker: SymbolicChecker) -> bool | None:
        if sample.gold is None:
            return None
        made = sample.completion
        accept = self._section.accept_cut_off
        return bool(builtin.answer(made.text, sample.gold, made.finish, checker, accept_cut_off=accept))

    def _part(self, name: str, samples: Sequence[Sample], correct: Sequence[bool | None]) -> list[Outcome]:
        if name in self._pools:
            return self._pools[name].map(
                [_as_json(sample, right) for sample, right in zip(samples, correct, strict=True)]
            )
        if name == "shorter_when_right":
            return _within_groups(samples, correct)
        return [self._built_in(name, sample, right) for sample, right in zip(samples, correct, strict=True)]

    def _built_in(self, name: str, sample: Sample, right: bool | None) -> Outcome:
        section, made = self._section, sample.completion
        length = len(made.ids)
        if name in ("answer", "length_cosine") and right is None:
            return _NO_GOLD
        match name:
            case "answer":
                value = float(right is True)
            case "format":
                value = builtin.format_reward(
                    made.text, think=section.think, think_in_prompt=section.think_in_prompt
                )
            case "length_cosine":
                value = length_cosine(right is True, length, self._max_length, section.cosine.values)
            case "repetition":
                written = [token for token, own in zip(made.ids, made.mask, strict=True) if own]
                value = builtin.repetition(written, section.ngram)
            case "tool_success":
                value = builtin.tool_success(made.tool_calls, made.tool_errors)
            case "overlong":
                from kit.losses.overlong import soft_overlong_penalty

                value = soft_overlong_penalty(
                    length, max_length=self._max_length, buffer=section.overlong_buffer
                )
            case _:
                assert name == "prm", name
                assert self._prm is not None, "checked at the start"
                value = self._prm(sample.problem, made.text)
        return Outcome(value) if math.isfinite(value) else Outcome(math.nan, "none", "it has no finite score")

    def _scored(self, outcomes: dict[str, Outcome], correct: bool | None) -> Scored:
        parts = {name: outcome.value for name, outcome in outcomes.items()}
        reason = "; ".join(
            f"{name}: {outcome.failure}: {outcome.reason}"
            for name, outcome in outcomes.items()
            if outcome.failure
        )
        total = math.nan
        if not reason:
            total = math.fsum(self._weights[name] * value for name, value in parts.items())
        return Scored(total, parts, correct, reason)


_NO_GOLD = Outcome(math.nan, "none", "the problem has no gold answer")


class _Probe:
    """Stands in for the checker, to see whether a comparison would need it."""

    asked = False

    def equal(self, prediction: str, gold: str) -> bool:  # noqa: ARG002  # the checker's signature
        self.asked = True
        return False


def _within_groups(samples: Sequence[Sample], correct: Sequence[bool | None]) -> list[Outcome]:
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.group].append(index)
    outcomes = [_NO_GOLD] * len(samples)
    for members in groups.values():
        if any(correct[index] is None for index in members):
            continue
        lengths = [len(samples[index].completion.ids) for index in members]
        rewards = shorter_when_right(lengths, [correct[index] is True for index in members])
        for index, reward in zip(members, rewards, strict=True):
            outcomes[index] = Outcome(reward)
    return outcomes


def _as_json(sample: Sample, correct: bool | None) -> dict[str, Any]:
    made = sample.completion
    return {
        "problem": sample.problem,
        "answer": sample.gold.text if sample.gold else None,
        "completion": made.text,
        "finish": made.finish,
        "tokens": len(made.ids),
        "tool_calls": made.tool_calls,
        "tool_errors": made.tool_errors,
        "correct": correct,
    }

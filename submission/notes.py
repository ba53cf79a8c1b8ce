"""What the contest writes into its journal of samples and answers: plain JSON, nothing that is not finite."""

import math
from typing import Any

from submission.solving.sample import Opinion, Sample, Solution

MAX_CALLS_CHARS = 20_000
"""Of all code and output of one sample: the journal is read again after a crash."""


def sample_facts(sample: Sample) -> dict[str, Any]:
    """Fields of a `SampleLine`."""
    return {
        "attempt": sample.attempt,
        "role": sample.role,
        "answer": sample.answer,
        "tokens": sample.tokens,
        "tool_tokens": sample.tool_tokens,
        "seconds": round(sample.seconds, 3),
        "finish": sample.finish,
        # A NaN from a broken model must not reach a file that others parse, nor a vote.
        "logprob": _finite(sample.logprob),
        "error": sample.error,
        "calls": _calls(sample),
        "prompted": sample.prompted,
        "cached": sample.cached,
        "text": sample.text,
    }


def _calls(sample: Sample) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    left = MAX_CALLS_CHARS
    for call in sample.calls:
        code, output = call.code[: max(0, left)], call.output[: max(0, left - len(call.code))]
        left -= len(call.code) + len(call.output)
        facts = {"code": code, "output": output, "failed": call.failed, "seconds": round(call.seconds, 3)}
        kept.append(facts)
    return kept


def answer_facts(solution: Solution, trouble: str) -> dict[str, Any]:
    """Fields of an `AnswerLine`; `trouble` is why there was no engine, "" if there was."""
    return {
        "answer": solution.answer,
        "source": solution.source,
        "plain": solution.plain,
        "rule": solution.rule,
        "votes": [list(vote) for vote in solution.votes],
        "totals": [[answer, round(total, 4)] for answer, total in solution.totals],
        "prm": [[answer, round(mean, 4)] for answer, mean in solution.prm_means.items()],
        "scores": [
            [sample.attempt, *(round(step, 4) for step in sample.steps)]
            for sample in solution.samples
            if sample.steps
        ],
        "opinions": [_opinion(opinion) for opinion in solution.opinions],
        "samples": len(solution.samples),
        "tokens": sum(sample.tokens for sample in solution.samples),
        "seconds": round(solution.seconds, 3),
        "stopped": trouble or solution.stopped,
        **_scoring(solution),
    }


def _scoring(solution: Solution) -> dict[str, Any]:
    """What scores took; nothing where there was nothing to score."""
    turn = solution.turn
    if turn is None:
        return {"scoring": round(solution.scoring, 3)} if solution.scoring else {}
    return {"swap": round(turn.swap, 3), "scoring": round(turn.scoring, 3), "unscored": turn.why}


def _opinion(opinion: Opinion) -> dict[str, Any]:
    return {
        "role": opinion.role,
        "task": opinion.task,
        "answer": opinion.answer,
        "right": opinion.right,
        "tokens": opinion.tokens,
        "seconds": round(opinion.seconds, 3),
        "text": opinion.text,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""Confidence-filtered voting: unsure attempts are cut off, the others vote by confidence.

Fu et al. 2025, "Deep Think with Confidence" (DeepConf), online: a warm-up of whole attempts sets a threshold;
an attempt that falls below it is ended; answers are weighed by confidence; sampling stops when the leader
holds `consensus` of the weight.

Other than in the paper, an attempt's confidence is the geometric mean probability of its own tokens, over all
of it: the paper takes the negative mean log-probability of the top k tokens over its worst window, which
needs k log-probabilities a token. Without any log-probabilities this is the plain vote with its consensus.
"""

import math
from collections import defaultdict
from collections.abc import Hashable

from submission.policies.situation import Decision, Policy, Situation, ended, keep_running, plurality

LEAST_TOKENS = 256
"""An attempt is not judged by fewer tokens than these."""


def deepconf(warmup: int = 4, keep: float = 0.9, consensus: float = 0.95) -> Policy:
    """Draw all attempts side by side; judge them against the first `warmup` that ended.

    Args:
        warmup: whole attempts before the first is cut off or the vote may end.
        keep: share of the warm-up's attempts that are confident enough (0.9 and 0.1 in the paper).
        consensus: share of the weight that ends the problem.

    Raises:
        ValueError: `warmup` below 1, `keep` or `consensus` outside (0, 1].
    """
    if warmup < 1:
        raise ValueError(f"warmup is {warmup}; it must be at least 1")
    for name, value in (("keep", keep), ("consensus", consensus)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}; it must lie above 0 and not above 1")

    def decide(situation: Situation) -> Decision:
        threshold = _threshold(situation, warmup, keep)
        votes = _weights(situation, threshold)
        best = max(votes, key=lambda answer: votes[answer], default=plurality(situation))
        done = ended(situation)
        if done:
            return Decision(stop=done.stop, answer=best)
        if len(situation.finished) < warmup:
            return keep_running(situation, situation.concurrency)
        if votes and votes[best] >= consensus * sum(votes.values()):
            return Decision(stop="consensus", answer=best)
        unsure = tuple(
            run.attempt
            for run in situation.running
            if run.tokens >= LEAST_TOKENS and confidence(run.logprob, run.tokens) < threshold
        )
        left = len(situation.running) - len(unsure)
        run = min(situation.unstarted, situation.concurrency - left)
        if not left and run <= 0:
            return Decision(stop="none confident", answer=best)
        return Decision(run=max(run, 0), abort=unsure)

    return decide


def confidence(logprob: float, tokens: int) -> float:
    """Geometric mean probability of a token; 1 where it is unknown, so that nothing is held against it."""
    mean = logprob / max(tokens, 1)
    return math.exp(min(mean, 0.0)) if math.isfinite(mean) else 1.0


def _threshold(situation: Situation, warmup: int, keep: float) -> float:
    """Confidence of the least sure of the best `keep` share of the warm-up; 0 until that is over."""
    if len(situation.finished) < warmup:
        return 0.0
    first = situation.finished[:warmup]
    ranked = sorted((confidence(candidate.logprob, candidate.tokens) for candidate in first), reverse=True)
    return ranked[max(1, math.floor(keep * warmup)) - 1]


def _weights(situation: Situation, threshold: float) -> dict[Hashable, float]:
    """Confidence summed over the confident attempts of each answer, in order of first arrival."""
    votes: dict[Hashable, float] = defaultdict(float)
    for candidate in situation.finished:
        sure = confidence(candidate.logprob, candidate.tokens)
        if candidate.answer is not None and sure >= threshold:
            votes[candidate.answer] += sure
    return dict(votes)

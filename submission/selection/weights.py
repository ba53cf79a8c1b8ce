"""One weight a candidate, 0 to 1, from what its tokens or a process reward model say of it.

A value that is not finite is unknown. An unknown candidate gets the least weight that a known one has, so a
score that broke never carries an answer; where nothing is known, all weights are 1, which is the plain vote.
All weights are finite whatever comes in, and the best known candidate has weight 1.
"""

import math
from collections.abc import Sequence

from submission.selection.candidate import Candidate

LEAST_TEMPERATURE = 1e-6
"""Below this, the best candidate takes it all anyway."""


def confidence_weights(values: Sequence[float], temperature: float) -> list[float]:
    """exp((c_i - max c) / T) for confidences c, the higher the better, of any scale.

    The softmax within the problem up to its factor (Taubenfeld et al. 2025, "Confidence Improves
    Self-Consistency in LLMs"). T to infinity gives the plain vote, T to 0 the most confident candidate.

    Raises:
        ValueError: `temperature` is not a finite number of at least `LEAST_TEMPERATURE`.
    """
    _check_temperature(temperature)
    known = [value for value in values if math.isfinite(value)]
    greatest = max(known, default=0.0)
    return _filled(
        [math.exp((value - greatest) / temperature) if math.isfinite(value) else math.nan for value in values]
    )


def logprob_weights(candidates: Sequence[Candidate], temperature: float = 1.0) -> list[float]:
    """`confidence_weights` of the mean log-probability of a token, nats.

    At T = 1 the weight is the length-normalised probability exp(logprob / tokens), relative to the greatest
    (the "weighted sum (normalized)" of Wang et al. 2022).
    """
    return confidence_weights([_mean_logprob(one) for one in candidates], temperature)


def entropy_weights(candidates: Sequence[Candidate], temperature: float = 1.0) -> list[float]:
    """`confidence_weights` of the negative mean entropy, nats.

    Contest entries weigh by 1 / entropy, which lets one candidate that repeats itself without end (entropy
    near 0) outweigh all others; an exponential is bounded.
    """
    return confidence_weights([-_number(one.entropy) for one in candidates], temperature)


def length_weights(candidates: Sequence[Candidate], temperature: float = 1.0) -> list[float]:
    """`confidence_weights` of the negative number of tokens, in units of the problem's mean.

    Shorter chains of one model on one problem are right more often (Hassid et al. 2025, "Don't Overthink
    it"). A candidate without tokens is unknown.
    """
    lengths = [_number(one.tokens) for one in candidates]
    lengths = [length if length > 0 else math.nan for length in lengths]
    known = [length for length in lengths if math.isfinite(length)]
    mean = math.fsum(length / len(known) for length in known)
    return confidence_weights([-length / mean if known else math.nan for length in lengths], temperature)


def prm_weights(scores: Sequence[float], temperature: float = 1.0, blend: float = 1.0) -> list[float]:
    """(1 - blend) + blend * (s_i / max s)^(1 / T) for aggregated scores s in 0 to 1.

    The power form, and not the log-odds: it is defined at 0 and 1, where the product and the minimum of many
    steps end up. blend = 0 is the plain vote; a small blend lets the scores break ties only; blend = 1 with
    T = 1 is the verifier-weighted vote (Li et al. 2022); T to 0 with blend = 1 leaves only the candidates of
    the best score.

    Args:
        scores: one a candidate; those beyond 0 to 1 are cut to it.
        temperature: T, above 0.
        blend: 0 to 1.

    Raises:
        ValueError: `temperature` or `blend` out of range.
    """
    _check_temperature(temperature)
    if not 0 <= blend <= 1:
        raise ValueError(f"blend is {blend}; it must lie in 0 to 1")
    cut = [min(max(score, 0.0), 1.0) if math.isfinite(score) else math.nan for score in scores]
    greatest = max((score for score in cut if math.isfinite(score)), default=0.0)
    # Where every known score is 0, none is better than another.
    shares = [score / greatest if greatest else score + 1 for score in cut]
    powers = _filled([share ** (1 / temperature) for share in shares])
    return [(1 - blend) + blend * power for power in powers]


def _filled(weights: Sequence[float]) -> list[float]:
    """NaN replaced by the least known weight, by 1 where there is none."""
    least = min((weight for weight in weights if not math.isnan(weight)), default=1.0)
    return [least if math.isnan(weight) else weight for weight in weights]


def _mean_logprob(candidate: Candidate) -> float:
    tokens = _number(candidate.tokens)
    # A probability above 1 is an engine's fault, not confidence.
    return min(_number(candidate.logprob) / tokens, 0.0) if tokens > 0 else math.nan


def _number(value: float) -> float:
    """As a float; NaN where it is too large to be one."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature >= LEAST_TEMPERATURE):
        raise ValueError(
            f"temperature is {temperature}; it must be finite and at least {LEAST_TEMPERATURE:g}"
        )

"""From recorded samples to pools that contests draw from: their answers as votes, their work on an engine."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.simulator.recording import Taken
from benchmarks.simulator.throughput import (
    Curve,
    Measured,
    Occupancy,
    Throughput,
    fit_curve,
    occupancies,
    seconds_alone,
)

ASSUMED_HALF = 8.0
"""Where neither the recording nor the user tells how samples slow each other down."""
RIGHT = 1
"""The answer that stands for the right one; wrong ones are 2, 3, ..., and 0, the default, is nobody's."""


@dataclass(frozen=True)
class PoolSample:
    """One sample as it is played.

    Args:
        text: what it writes; no other sample of the recording writes the same.
        answer: `RIGHT`, another number for each wrong one, or None.
        tokens: completion tokens.
        work: seconds that it takes alone on the engine.
        ended: whether it ends by itself; another one runs on until it is cut off.
        logprob: sum, nats; NaN where unknown.
        steps: scores of its steps.
    """

    text: str
    answer: int | None
    tokens: int
    work: float
    ended: bool = True
    logprob: float = math.nan
    steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class PoolProblem:
    """A problem and what may be drawn for it; `codes`: the number that stands for each spelled answer."""

    id: str
    samples: tuple[PoolSample, ...]
    codes: Mapping[str, int] = field(default_factory=dict)

    @property
    def pass_rate(self) -> float:
        """Share of right samples."""
        return sum(sample.answer == RIGHT for sample in self.samples) / len(self.samples)


@dataclass(frozen=True)
class Pools:
    """What contests are made of.

    Args:
        problems: at least one, each with at least one sample, in order of first appearance.
        throughput: of the engine.
        source: where that comes from, for the reader.
        notes: what a reader of the figures has to know.
    """

    problems: tuple[PoolProblem, ...]
    throughput: Throughput
    source: str
    notes: tuple[str, ...] = ()


def read_pools(
    taken: Sequence[Taken], *, measured: Measured | None = None, half: float | None = None
) -> Pools:
    """Pools of a recording, with the speed of its engine or of a given one.

    Args:
        taken: at least one sample.
        measured: the speed of an engine, in place of that of the recording.
        half: of the recording's `Curve`, in place of a fit.

    Raises:
        ValueError: samples without seconds or tokens, where these are needed; both speeds are given.
    """
    if measured is not None and half is not None:
        raise ValueError("--throughput and --half both say how samples slow each other down: give one")
    _check(taken, measured)
    throughput, source = _throughput(taken, measured, half)
    problems, notes = make_pools(taken, throughput, by_tokens=measured is not None)
    return Pools(problems, throughput, source, notes)


def make_pools(
    taken: Sequence[Taken], throughput: Throughput, *, by_tokens: bool = False, keep_cut: bool = False
) -> tuple[tuple[PoolProblem, ...], tuple[str, ...]]:
    """The problems, and notes for the reader.

    A sample's own speed is kept: alone on the engine it takes its recorded seconds less what its company cost
    it, so the same company gives the same seconds again.

    Args:
        taken: at least one sample.
        throughput: of the engine.
        by_tokens: a sample's tokens alone say what it takes, not its recorded seconds.
        keep_cut: samples that were cut off stay, as ones that never end. Otherwise they are only played where
            a problem has no others: their answers are unknown, and they tend to be the long ones.
    """
    kept: dict[str, list[PoolSample]] = {}
    cut: dict[str, list[PoolSample]] = {}
    codes: dict[str, dict[Hashable, int]] = {}
    spelled: dict[str, dict[str, int]] = {}
    for index, (one, life) in enumerate(zip(taken, _lives(taken), strict=True)):
        work = one.tokens / throughput.speed(1) if by_tokens else seconds_alone(life, throughput)
        sample = _sample(one, index, codes.setdefault(one.problem, {}), work)
        kept.setdefault(one.problem, [])
        if sample.answer is not None:
            spelled.setdefault(one.problem, {})[str(one.answer)] = sample.answer
        (kept if one.ended or keep_cut else cut).setdefault(one.problem, []).append(sample)
    problems = tuple(
        PoolProblem(name, tuple(found or cut[name]), spelled.get(name, {})) for name, found in kept.items()
    )
    return problems, _notes(sum(map(len, cut.values())), len(taken), sum(not one for one in kept.values()))


def _notes(cut: int, samples: int, endless: int) -> tuple[str, ...]:
    notes = []
    if cut:
        notes.append(
            f"{cut} of {samples} samples were cut off: those that ended are not all that the model writes. "
            "Record with `benchmarks.run --samples` for figures without this bias."
        )
    if endless:
        notes.append(
            f"{endless} problems have no sample that ended: theirs run until they are cut off again."
        )
    return tuple(notes)


def _lives(taken: Sequence[Taken]) -> list[Occupancy]:
    """Company of each sample; where no time line is known, all attempts at a problem began together."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, one in enumerate(taken):
        groups.setdefault((one.contest, one.problem), []).append(index)
    found: list[Occupancy] = [{} for _ in taken]
    for indices in groups.values():
        samples = [taken[index] for index in indices]
        if not all(math.isfinite(one.seconds) for one in samples):
            continue  # only their tokens will be asked for
        timed = all(math.isfinite(one.begun) for one in samples)
        begun = [one.begun if timed else 0.0 for one in samples]
        lives = [(at, at + one.seconds) for at, one in zip(begun, samples, strict=True)]
        for index, life in zip(indices, occupancies(lives), strict=True):
            found[index] = life
    return found


def _check(taken: Sequence[Taken], measured: Measured | None) -> None:
    if measured is None and any(not 0 <= one.seconds < math.inf for one in taken):
        raise ValueError(
            "the recording has samples without their seconds: say how fast the engine is, as with "
            "--throughput 1:180,8:700"
        )
    if measured is not None and not any(one.tokens for one in taken):
        raise ValueError(
            "the recording has no numbers of tokens: its samples cannot be timed by --throughput"
        )


def _throughput(
    taken: Sequence[Taken], measured: Measured | None, half: float | None
) -> tuple[Throughput, str]:
    if measured is not None:
        return measured, "given"
    timed = all(math.isfinite(one.begun) for one in taken)
    pairs = [(float(one.tokens), life) for one, life in zip(taken, _lives(taken), strict=True)]
    groups = [(one.contest, one.problem) for one in taken]
    fitted = fit_curve(pairs, groups) if timed and half is None else None
    if fitted is not None:
        return fitted.curve, "fitted to the recording"
    # Only ratios of its speeds count where samples have their own seconds; the mean is for the reader.
    shape = Curve(1.0, ASSUMED_HALF if half is None else half)
    seconds = math.fsum(seconds_alone(life, shape) for _, life in pairs)
    tokens = math.fsum(count for count, _ in pairs)
    curve = Curve(tokens / seconds if tokens and seconds else 1.0, shape.half)
    if half is not None:
        return curve, "half given"
    why = "its samples all had about the same company" if timed else "the recording has no time line"
    return curve, f"half assumed: {why}"


def _sample(one: Taken, index: int, codes: dict[Hashable, int], work: float) -> PoolSample:
    answer: int | None = None
    # What a cut-off sample had put in a box is no answer yet.
    if one.ended and (one.right or one.answer is not None):
        answer = RIGHT if one.right else codes.setdefault(one.answer, len(codes) + RIGHT + 1)
    ending = "no answer" if answer is None else f"the answer is \\boxed{{{answer}}}"
    return PoolSample(
        text=f"Recorded sample {index}: {ending}.",
        answer=answer,
        tokens=one.tokens,
        work=work,
        ended=one.ended,
        logprob=one.logprob,
        steps=one.steps,
    )

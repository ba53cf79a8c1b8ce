"""Which prompts a step takes: one endless shuffled stream, where those that taught nothing come up less."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kit.training.order import epoch_order


@dataclass(frozen=True)
class Pick:
    """One prompt taken from the stream.

    Args:
        prompt: its number.
        position: where in the stream it stood; no two picks share one, so it seeds the samples.
    """

    prompt: int
    position: int


def stream(
    count: int,
    begin: int,
    seed: int,
    revisit: float,
    pass_rate: Callable[[int], float | None],
) -> Iterator[Pick]:
    """Prompts from stream position `begin` on, without end. Pure: the same arguments give the same picks.

    The stream is a fresh permutation of all prompts every epoch. A prompt whose last group was all right or
    all wrong (`pass_rate` 0 or 1) is taken with probability `revisit`, drawn from seed and position.

    Args:
        count: prompts in all.
        revisit: above 0.
        pass_rate: of a prompt's last group; None where it was never sampled.
    """
    assert count > 0 and revisit > 0
    position = begin
    while True:
        prompt = int(epoch_order(count, seed, position // count)[position % count])
        if pass_rate(prompt) not in (0.0, 1.0) or _draw(seed, position) < revisit:
            yield Pick(prompt, position)
        position += 1


def sample_seed(seed: int, position: int, attempt: int) -> int:
    """63 bits that belong to one completion: of the prompt at a stream position, the attempt's number."""
    return _bits(f"sample/{seed}/{position}/{attempt}") >> 1


def _draw(seed: int, position: int) -> float:
    return _bits(f"visit/{seed}/{position}") / 2**64


def _bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

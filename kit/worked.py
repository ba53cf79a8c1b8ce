r"""Integer arithmetic, bare and in words, with worked solutions, made from a seed without end.

A problem is a chain of two or more operands; its solution adds one operand a step. Steps stand between blank
lines, as `submission.steps` expects them:

    Mia has 12 apples. Then Mia gets 7 more. How many apples does Mia have now?

    Step 1: 12 + 7 = 19

    Answer: \boxed{19}

Train, validation and test are apart by construction: a hash of the problem in canonical form (its operands in
order of size, without wording) says which of the three it belongs to, so that the same numbers in another
order or another wording are never in two. `reasoning-gym` was left out: its solutions have no steps.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from kit.data.records import Record
from submission.recipes import Recipe

Split = Literal["train", "validation", "test"]
Kind = Literal["sum", "mixed", "product"]
SOURCE = "kit.worked"
LARGEST = 99_999
"""No result, in between or final, is larger, and none is negative."""

_NAMES = ("Mia", "Tom", "Ana", "Ben", "Lin", "Omar", "Ivy", "Raj")
_THINGS = ("apples", "marbles", "stickers", "books", "coins", "shells", "pencils", "cards")
_GAINS = ("gets {} more", "finds {} more", "buys {} more")
_LOSSES = ("gives {} away", "loses {}", "sells {}")
_CONTAINERS = (("room", "rooms"), ("shelf", "shelves"), ("box", "boxes"), ("bag", "bags"), ("pack", "packs"))

_WORDS = (
    *("Compute", "There", "Then", "How", "Each", "Step", "Answer:", "has", "have", "does", "gets", "finds"),
    *("buys", "gives", "loses", "sells", "more", "away", "many", "now", "are", "holds", "there", "in", "all"),
)
VOCABULARY: tuple[str, ...] = (
    *(" + ", " - ", " * ", " = ", ": ", ". ", "\n\n", "\\boxed{"),
    *_WORDS,
    *(f" {word}" for word in (*_WORDS, "\\boxed{")),
    *(form for name in _NAMES for form in (name, f" {name}")),
    *(f" {things}" for things in _THINGS),
    *(f" {word}" for pair in _CONTAINERS for word in pair),
)
"""Pieces of the problems and solutions that a small tokenizer does well to know as one token each."""


class Difficulty(Recipe):
    """What is drawn. Operands are chosen evenly between the bounds."""

    kinds: list[Kind] = Field(default=["sum", "mixed", "product"], min_length=1)
    """`sum` adds, `mixed` adds and subtracts, `product` multiplies by one digit at a time; evenly drawn."""
    min_operands: int = Field(default=2, ge=2, le=6)
    max_operands: int = Field(default=4, ge=2, le=6)
    largest: int = Field(default=99, ge=9, le=9_999)
    """Operands are drawn from 2 to this; of a product's operands, all but the first from 2 to 9."""
    worded: float = Field(default=0.5, ge=0, le=1)
    """Share of problems in words."""
    any_order: bool = False
    """Work sums and products in an order drawn at random, as different writers would: several solutions are
    right, and a trace shows one of them."""
    slips: float = Field(default=0.0, ge=0, le=1)
    """Share of solutions in which one step's result is wrong by a digit and what follows goes on from there,
    as in sets that nobody verified. Such a record says `correct=False`; its `answer` is the right one."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_operands > self.max_operands:
            raise ValueError(f"min_operands {self.min_operands} is above max_operands {self.max_operands}")
        return self


@dataclass(frozen=True)
class Chain:
    """A problem in numbers: `operands[0] signs[0] operands[1] signs[1] …`, worked from the left."""

    operands: tuple[int, ...]
    signs: tuple[str, ...]
    """Each of `+`, `-`, `*`; `*` stands with `*` only."""

    def results(self) -> list[int]:
        """The value after each step; the last one is the answer."""
        value, values = self.operands[0], []
        for sign, operand in zip(self.signs, self.operands[1:], strict=True):
            value = value * operand if sign == "*" else value + operand if sign == "+" else value - operand
            values.append(value)
        return values

    def key(self) -> str:
        """Canonical form: equal for chains that differ only in the order of their operands."""
        first = "*" if "*" in self.signs else "+"
        return " ".join(sorted(f"{s}{n}" for s, n in zip((first, *self.signs), self.operands, strict=True)))

    def split(self) -> Split:
        """Eight in ten canonical forms are train, one is validation, one is test."""
        bucket = int.from_bytes(hashlib.sha256(self.key().encode()).digest()[:8]) % 10
        return "train" if bucket < 8 else "validation" if bucket == 8 else "test"

    def solution(self, slip: tuple[int, int] | None = None) -> str:
        """Every step with its result, and the boxed answer.

        Args:
            slip: a step (from 0) and what its result is wrong by.
        """
        lines, value = [], self.operands[0]
        for number, (sign, operand) in enumerate(zip(self.signs, self.operands[1:], strict=True)):
            result = value * operand if sign == "*" else value + operand if sign == "+" else value - operand
            if slip is not None and slip[0] == number:
                result += slip[1]
            lines.append(f"Step {number + 1}: {value} {sign} {operand} = {result}")
            value = result
        return "\n\n".join([*lines, f"Answer: \\boxed{{{value}}}"])


def stream(split: Split, seed: int, difficulty: Difficulty | None = None) -> Iterator[Record]:
    """Records of one split without end. The same arguments give the same records.

    Problems come back sooner or later where few numbers are in play; `generate` gives different ones only.

    Raises:
        ValueError: no such split, or one without a problem of this difficulty.
    """
    difficulty = difficulty or Difficulty()
    if split not in get_args(Split):
        raise ValueError(f"split {split!r} does not exist; the splits are {', '.join(get_args(Split))}")
    random = Random(f"{split}/{seed}")
    for _ in iter(int, 1):
        chain = _next_chain(random, split, difficulty)
        worded = random.random() < difficulty.worded
        problem = _in_words(random, chain) if worded else _bare(chain)
        solved = _reordered(random, chain) if difficulty.any_order else chain
        # Nothing is drawn without slips: the problems of a seed stay what they were.
        slips = bool(difficulty.slips) and random.random() < difficulty.slips
        yield Record(
            problem=problem,
            answer=str(chain.results()[-1]),
            completion=solved.solution(_slip(random, solved) if slips else None),
            source=SOURCE,
            licence="Apache-2.0",
            level=f"{len(chain.operands)} operands",
            correct=not slips,
        )


def generate(count: int, split: Split, seed: int, difficulty: Difficulty | None = None) -> list[Record]:
    """`count` records of one split with different problem texts.

    Raises:
        ValueError: `count` is not positive, or there are fewer problems of this difficulty.
    """
    if count < 1:
        raise ValueError(f"count {count} must be at least 1")
    records: dict[str, Record] = {}
    repeats = 0
    for record in stream(split, seed, difficulty):
        repeats = repeats + 1 if record.problem in records else 0
        if repeats > 1_000:
            raise ValueError(
                f"count {count} is more than the split {split!r} has different problems at this difficulty "
                f"(about {len(records)}): ask for fewer, or for more or larger operands"
            )
        records.setdefault(record.problem, record)
        if len(records) == count:
            break
    return list(records.values())


def _next_chain(random: Random, split: Split, difficulty: Difficulty) -> Chain:
    for _ in range(20_000):
        chain = _draw(random, difficulty)
        if chain is not None and chain.split() == split:
            return chain
    raise ValueError(
        f"no problem of the split {split!r} turned up at this difficulty: allow more or larger operands"
    )


def _draw(random: Random, difficulty: Difficulty) -> Chain | None:
    """A chain, or None where the draw left the range of results."""
    kind = random.choice(difficulty.kinds)
    count = random.randint(difficulty.min_operands, difficulty.max_operands)
    first = random.randint(2, difficulty.largest)
    top = 9 if kind == "product" else difficulty.largest
    others = [random.randint(2, top) for _ in range(count - 1)]
    draw_sign: dict[Kind, Callable[[], str]] = {
        "sum": lambda: "+",
        "mixed": lambda: random.choice("+-"),
        "product": lambda: "*",
    }
    chain = Chain((first, *others), tuple(draw_sign[kind]() for _ in others))
    return chain if all(0 <= result <= LARGEST for result in chain.results()) else None


def _reordered(random: Random, chain: Chain) -> Chain:
    """The operands in another order, where the order does not matter."""
    if "-" in chain.signs:
        return chain
    operands = random.sample(chain.operands, len(chain.operands))
    return Chain(tuple(operands), chain.signs)


def _slip(random: Random, chain: Chain) -> tuple[int, int]:
    """One step, and a digit's worth of error that leaves its result positive."""
    step = random.randrange(len(chain.signs))
    result = chain.results()[step]
    sizes = [10**place for place in range(len(str(result)))]
    error = random.choice(sizes) * random.choice((-1, 1))
    return step, error if result + error > 0 else abs(error)


def _bare(chain: Chain) -> str:
    tail = "".join(f" {sign} {n}" for sign, n in zip(chain.signs, chain.operands[1:], strict=True))
    return f"Compute {chain.operands[0]}{tail}."


def _in_words(random: Random, chain: Chain) -> str:
    things = random.choice(_THINGS)
    if "*" in chain.signs:
        return _nested_containers(random, chain, things)
    name = random.choice(_NAMES)
    sentences = [f"{name} has {chain.operands[0]} {things}."]
    for sign, operand in zip(chain.signs, chain.operands[1:], strict=True):
        change = random.choice(_GAINS if sign == "+" else _LOSSES).format(operand)
        sentences.append(f"Then {name} {change}.")
    return " ".join([*sentences, f"How many {things} does {name} have now?"])


def _nested_containers(random: Random, chain: Chain, things: str) -> str:
    picked = sorted(random.sample(range(len(_CONTAINERS)), len(chain.operands) - 1))
    containers = [_CONTAINERS[place] for place in picked]
    inside = [*(plural for _, plural in containers[1:]), things]
    sentences = [f"There are {chain.operands[0]} {containers[0][1]}."]
    for (outer, _), operand, content in zip(containers, chain.operands[1:], inside, strict=True):
        sentences.append(f"Each {outer} holds {operand} {content}.")
    return " ".join([*sentences, f"How many {things} are there in all?"])

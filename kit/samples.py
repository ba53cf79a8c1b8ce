"""Problems with integer answers from 0 to 99999, in five levels, made from a seed without end.

    python -m kit.samples [--out FILE.csv] [--count N] [--seed N]

Level 1 is one step of arithmetic, level 5 is worded and built like an AIME problem. Each family draws its
numbers, words the problem, and computes the answer by the method that a solver would use (a formula, a
product over primes, a matrix power); the tests count it out again from the wording alone.
`reasoning-gym` was left out: few of its tasks are contest problems with one integer answer.
"""

import csv
import hashlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from submission.cli import run
from submission.files import write_text

LEVELS = (1, 2, 3, 4, 5)
SHIPPED = Path(__file__).parent / "data" / "sample_problems.csv"
SHIPPED_COUNT = 12
SHIPPED_SEED = 5

Family = Callable[[Random], tuple[str, int]]
FAMILIES: dict[int, list[Family]] = {level: [] for level in LEVELS}

_NAMES = ("Mia", "Tom", "Ana", "Ben", "Lin", "Omar", "Ivy", "Raj")
_THINGS = ("apples", "marbles", "stickers", "books", "coins", "shells", "pencils", "cards")
_PRIMES = (2, 3, 5, 7, 11, 13)


@dataclass(frozen=True)
class Sample:
    """One generated problem. `family` names the function that made it."""

    text: str
    answer: int
    level: int
    family: str

    @property
    def id(self) -> str:
        """Six hex digits that depend on the text only."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:6]


def stream(seed: int, level: int) -> Iterator[Sample]:
    """Samples of one level without end, its families in turn. The same seed gives the same samples.

    Texts come back sooner or later at the easy levels, where few numbers are in play.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level} does not exist; the levels are {', '.join(map(str, LEVELS))}")
    random = Random(f"{seed}/{level}")
    families = FAMILIES[level]
    turn = random.randrange(len(families))
    while True:
        family = families[turn % len(families)]
        turn += 1
        text, answer = family(random)
        assert 0 <= answer <= 99_999, (family.__name__, text, answer)
        yield Sample(text, answer, level, family.__name__)


def generate(count: int, seed: int) -> list[Sample]:
    """`count` different samples in order of level, equally many of each; level 1 takes what is left over.

    Raises:
        ValueError: `count` is not positive, or more than the easy levels have different problems for.
    """
    if count < 1:
        raise ValueError(f"count {count} must be at least 1")
    samples: list[Sample] = []
    seen: set[str] = set()
    share, extra = divmod(count, len(LEVELS))
    for level in LEVELS:
        source, repeats = stream(seed, level), 0
        wanted = len(samples) + share + (extra if level == 1 else 0)
        while len(samples) < wanted:
            sample = next(source)
            if sample.id not in seen:
                seen.add(sample.id)
                samples.append(sample)
                repeats = 0
            elif (repeats := repeats + 1) > 1_000:
                raise ValueError(
                    f"count {count} is more than level {level} has different problems; ask for fewer"
                )
    return samples


def to_csv(samples: list[Sample]) -> str:
    """The columns id, problem, answer, level as csv text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "problem", "answer", "level"])
    writer.writerows([sample.id, sample.text, sample.answer, sample.level] for sample in samples)
    return buffer.getvalue()


def _family(level: int) -> Callable[[Family], Family]:
    def register(function: Family) -> Family:
        FAMILIES[level].append(function)
        return function

    return register


# --- level 1: one step -------------------------------------------------------------------------------


@_family(1)
def sum_of_two(random: Random) -> tuple[str, int]:
    """A sum of two small numbers."""
    a, b = random.randint(2, 12), random.randint(2, 9)
    return f"What is {a} + {b}?", a + b


@_family(1)
def product_of_two(random: Random) -> tuple[str, int]:
    """A product of two small numbers."""
    a, b = random.randint(2, 12), random.randint(2, 9)
    return f"What is {a} times {b}?", a * b


@_family(1)
def story_of_change(random: Random) -> tuple[str, int]:
    """A sum or a difference in words."""
    name, things = random.choice(_NAMES), random.choice(_THINGS)
    a, b = random.randint(2, 20), random.randint(2, 12)
    if random.random() < 0.5:
        return f"{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?", a + b
    return f"{name} has {a + b} {things} and gives {b} away. How many {things} does {name} have now?", a


@_family(1)
def story_of_boxes(random: Random) -> tuple[str, int]:
    """A product in words."""
    a, b, things = random.randint(2, 9), random.randint(2, 12), random.choice(_THINGS)
    return f"There are {a} boxes with {b} {things} in each box. How many {things} are there in all?", a * b


# --- level 2: two or three steps ---------------------------------------------------------------------


@_family(2)
def expression(random: Random) -> tuple[str, int]:
    """Brackets, a product, a difference."""
    a, b, c = random.randint(2, 40), random.randint(2, 40), random.randint(2, 12)
    d = random.randint(1, (a + b) * c)
    return f"Compute $({a} + {b}) \\cdot {c} - {d}$.", (a + b) * c - d


@_family(2)
def shopping(random: Random) -> tuple[str, int]:
    """Two products and a sum in words."""
    p, q, m, n = (random.randint(2, 15) for _ in range(4))
    text = (
        f"A notebook costs {p} dollars and a pen costs {q} dollars. "
        f"How many dollars do {m} notebooks and {n} pens cost together?"
    )
    return text, m * p + n * q


@_family(2)
def division_remainder(random: Random) -> tuple[str, int]:
    """What a division leaves."""
    d, q = random.randint(6, 99), random.randint(11, 400)
    r = random.randrange(d)
    return f"What is the remainder when {d * q + r} is divided by {d}?", r


@_family(2)
def linear_equation(random: Random) -> tuple[str, int]:
    """One unknown."""
    a, b, x = random.randint(2, 25), random.randint(1, 99), random.randint(2, 120)
    return f"Find the integer $x$ for which ${a}x + {b} = {a * x + b}$.", x


# --- level 3: one idea of school mathematics ----------------------------------------------------------


@_family(3)
def flashing_lights(random: Random) -> tuple[str, int]:
    """Least common multiple."""
    shared, a, b = random.randint(2, 12), random.randint(2, 15), random.randint(2, 15)
    a, b = a * shared, (b + (a == b)) * shared
    text = (
        f"Two lights flash together at noon. One flashes every {a} seconds, the other every {b} seconds. "
        "After how many seconds do they flash together again for the first time?"
    )
    return text, a // math.gcd(a, b) * b


@_family(3)
def heads_and_legs(random: Random) -> tuple[str, int]:
    """Two equations, two unknowns."""
    hens, cows = random.randint(3, 150), random.randint(3, 150)
    text = (
        f"A farm keeps only hens and cows, {hens + cows} animals in all. Together they have "
        f"{2 * hens + 4 * cows} legs. How many cows are there?"
    )
    return text, cows


@_family(3)
def arithmetic_series(random: Random) -> tuple[str, int]:
    """Sum of an arithmetic sequence."""
    a, d, n = random.randint(1, 50), random.randint(2, 15), random.randint(10, 100)
    text = (
        f"The first term of an arithmetic sequence is ${a}$ and its common difference is ${d}$. "
        f"Find the sum of its first ${n}$ terms."
    )
    return text, n * (2 * a + (n - 1) * d) // 2


@_family(3)
def divisor_count(random: Random) -> tuple[str, int]:
    """Number of divisors, from the prime factors."""
    powers = _prime_powers(random, largest=9_999)
    return (
        f"How many positive divisors does ${_product_of(powers)}$ have?",
        math.prod(exponent + 1 for _, exponent in powers),
    )


# --- level 4: one theorem or a careful count ---------------------------------------------------------


@_family(4)
def modular_power(random: Random) -> tuple[str, int]:
    """A power modulo m."""
    a, b, m = random.randint(2, 60), random.randint(100, 3_000), random.randint(50, 1_000)
    return f"Find the remainder when ${a}^{{{b}}}$ is divided by ${m}$.", pow(a, b, m)


@_family(4)
def exactly_one_divides(random: Random) -> tuple[str, int]:
    """Inclusion and exclusion."""
    n, a = random.randint(500, 20_000), random.randint(4, 40)
    b = random.randint(a + 1, a + 40)
    text = f"How many integers from $1$ to ${n}$ are divisible by ${a}$ or by ${b}$, but not by both?"
    return text, n // a + n // b - 2 * (n // math.lcm(a, b))


@_family(4)
def grid_paths(random: Random) -> tuple[str, int]:
    """Paths in a grid that avoid one point."""
    m, n = random.randint(4, 9), random.randint(4, 9)
    p, q = random.randint(1, m - 1), random.randint(1, n - 1)
    text = (
        f"A path leads from $(0,0)$ to $({m},{n})$ in steps of one unit to the right or one unit up. "
        f"How many such paths do not pass through the point $({p},{q})$?"
    )
    through = math.comb(p + q, p) * math.comb(m - p + n - q, m - p)
    return text, math.comb(m + n, m) - through


@_family(4)
def three_remainders(random: Random) -> tuple[str, int]:
    """Chinese remainder theorem."""
    moduli: list[int] = []
    while len(moduli) < 3:
        candidate = random.randint(5, 40)
        if all(math.gcd(candidate, other) == 1 for other in moduli):
            moduli.append(candidate)
    rests = [random.randrange(modulus) for modulus in moduli]
    whole = math.prod(moduli)
    parts = [whole // modulus for modulus in moduli]
    solution = (
        sum(r * part * pow(part, -1, m) for r, part, m in zip(rests, parts, moduli, strict=True)) % whole
    )
    stated = [f"${r}$ when divided by ${m}$" for r, m in zip(rests, moduli, strict=True)]
    text = f"Find the least positive integer that leaves remainder {stated[0]}, {stated[1]} and {stated[2]}."
    return text, solution or whole


@_family(4)
def pairs_with_divisible_sum(random: Random) -> tuple[str, int]:
    """Pairs counted by residues."""
    n, k = random.randint(30, 250), random.randint(3, 15)
    counts = [n // k + (1 <= rest <= n % k) for rest in range(k)]
    ordered = sum(counts[rest] * counts[-rest % k] for rest in range(k))
    doubles = sum(counts[rest] for rest in range(k) if 2 * rest % k == 0)
    text = (
        f"How many pairs of integers $(a, b)$ with $1 \\le a < b \\le {n}$ have a sum $a + b$ that is "
        f"divisible by ${k}$?"
    )
    return text, (ordered - doubles) // 2


# --- level 5: like the AIME --------------------------------------------------------------------------


@_family(5)
def recurrence(random: Random) -> tuple[str, int]:
    """A far term of a linear recurrence modulo 10^5, by powers of its matrix."""
    p, q, c, d = (random.randint(1, 9) for _ in range(4))
    n = random.randint(1_000, 30_000)
    text = (
        f"A sequence is defined by $a_1 = {p}$, $a_2 = {q}$ and $a_n = {c}a_{{n-1}} + {d}a_{{n-2}}$ for all "
        f"$n \\ge 3$. Find the remainder when $a_{{{n}}}$ is divided by $10^5$."
    ).replace(" 1a", " a")
    power, square, exponent = (1, 0, 0, 1), (c, d, 1, 0), n - 1
    while exponent:
        if exponent & 1:
            power = _times(power, square)
        square, exponent = _times(square, square), exponent >> 1
    return text, (power[2] * q + power[3] * p) % 10**5


def _times(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Product of two 2 by 2 matrices, written row by row, modulo 10^5."""
    product = (
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
    )
    w, x, y, z = (entry % 10**5 for entry in product)
    return w, x, y, z


@_family(5)
def digit_sum_count(random: Random) -> tuple[str, int]:
    """Numbers of k digits or fewer with a given digit sum: stars and bars, less the digits above 9."""
    k = random.randint(4, 6)
    s = random.randint(5, 9 * k - 5)
    count = sum(
        (-1) ** over * math.comb(k, over) * math.comb(s - 10 * over + k - 1, k - 1)
        for over in range(min(k, s // 10) + 1)
    )
    return f"How many positive integers less than $10^{k}$ have digits that add up to ${s}$?", count


@_family(5)
def points_in_circle(random: Random) -> tuple[str, int]:
    """Lattice points in a disc, column by column."""
    n = random.randint(200, 3_000)
    root = math.isqrt(n)
    count = sum(2 * math.isqrt(n - x * x) + 1 for x in range(-root, root + 1))
    return f"How many ordered pairs of integers $(x, y)$ satisfy $x^2 + y^2 \\le {n}$?", count


@_family(5)
def factor_triples(random: Random) -> tuple[str, int]:
    """Ordered factorisations into three, from the prime factors."""
    powers = _prime_powers(random, largest=50_000)
    text = f"How many ordered triples $(a, b, c)$ of positive integers satisfy $abc = {_product_of(powers)}$?"
    return text, math.prod(math.comb(exponent + 2, 2) for _, exponent in powers)


@_family(5)
def subsets_without_difference(random: Random) -> tuple[str, int]:
    """Subsets that avoid a difference: one Fibonacci number for each residue class, multiplied."""
    n, k = random.randint(9, 200), random.randint(2, 7)
    fibonacci = [1, 2]
    while len(fibonacci) <= n:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    text = (
        f"Let $N$ be the number of subsets of $\\{{1, 2, \\dots, {n}\\}}$, the empty set included, that "
        f"contain no two elements with difference ${k}$. Find the remainder when $N$ is divided by $10^5$."
    )
    return text, math.prod(fibonacci[len(range(start, n + 1, k))] for start in range(1, k + 1)) % 10**5


def _prime_powers(random: Random, largest: int) -> list[tuple[int, int]]:
    """Primes with exponents whose product has at least three prime factors and is at most `largest`."""
    while True:
        powers = [(prime, random.randint(0, 4)) for prime in _PRIMES]
        powers = [(prime, exponent) for prime, exponent in powers if exponent]
        if len(powers) >= 3 and _product_of(powers) <= largest:
            return powers


def _product_of(powers: list[tuple[int, int]]) -> int:
    return math.prod(prime**exponent for prime, exponent in powers)


def main() -> None:
    """Entry point of `python -m kit.samples`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def samples(
        out: Annotated[Path, typer.Option(help="Csv file to write.")] = SHIPPED,
        count: Annotated[int, typer.Option(help="How many problems.")] = SHIPPED_COUNT,
        seed: Annotated[int, typer.Option(help="The same seed gives the same problems.")] = SHIPPED_SEED,
    ) -> None:
        """Write sample problems (id, problem, answer, level); without options, the shipped ones."""
        write_text(out, to_csv(generate(count, seed)))
        typer.echo(f"{count} problems written to {out}", err=True)

    run(app)


if __name__ == "__main__":
    main()

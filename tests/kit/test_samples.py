"""Sample problems: each family's answer is worked out again from its wording alone, by brute force."""

import csv
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

from kit.samples import (
    FAMILIES,
    LEVELS,
    SHIPPED,
    SHIPPED_COUNT,
    SHIPPED_SEED,
    Sample,
    generate,
    stream,
    to_csv,
)
from submission.problems import load_problems
from submission.settings import ContestSettings, profile_path

SOLVERS: dict[str, tuple[str, Callable[..., int]]] = {}


def solver(wording: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register the brute-force method for a wording; the groups of the pattern are its arguments."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        SOLVERS[function.__name__] = (wording, function)
        return function

    return register


def solve(sample: Sample) -> int:
    wording, function = SOLVERS[sample.family]
    found = re.fullmatch(wording, sample.text)
    assert found, sample.text
    return function(*(int(group) if group.isdigit() else group for group in found.groups()))


@solver(r"What is (\d+) \+ (\d+)\?")
def sum_of_two(a: int, b: int) -> int:
    return len([*range(a), *range(b)])


@solver(r"What is (\d+) times (\d+)\?")
def product_of_two(a: int, b: int) -> int:
    return sum(1 for _ in range(a) for _ in range(b))


@solver(r"(\w+) has (\d+) (\w+) and (gets|gives) (\d+) (?:more|away)\. How many (\w+) does (\w+) have now\?")
def story_of_change(name: str, a: int, things: str, verb: str, b: int, *asked: str) -> int:
    assert asked == (things, name)
    return len([*range(a), *range(b)]) if verb == "gets" else len(range(b, a))


@solver(r"There are (\d+) boxes with (\d+) (\w+) in each box\. How many (\w+) are there in all\?")
def story_of_boxes(boxes: int, each: int, things: str, asked: str) -> int:
    assert things == asked
    return sum(each for _ in range(boxes))


@solver(r"Compute \$\((\d+) \+ (\d+)\) \\cdot (\d+) - (\d+)\$\.")
def expression(a: int, b: int, c: int, d: int) -> int:
    return a * c + b * c - d


@solver(
    r"A notebook costs (\d+) dollars and a pen costs (\d+) dollars\. "
    r"How many dollars do (\d+) notebooks and (\d+) pens cost together\?"
)
def shopping(notebook: int, pen: int, notebooks: int, pens: int) -> int:
    return sum([notebook] * notebooks + [pen] * pens)


@solver(r"What is the remainder when (\d+) is divided by (\d+)\?")
def division_remainder(n: int, d: int) -> int:
    while n >= d:
        n -= d
    return n


@solver(r"Find the integer \$x\$ for which \$(\d+)x \+ (\d+) = (\d+)\$\.")
def linear_equation(a: int, b: int, c: int) -> int:
    return only(x for x in range(-1_000, 1_000) if a * x + b == c)


@solver(
    r"Two lights flash together at noon\. One flashes every (\d+) seconds, the other every (\d+) seconds\. "
    r"After how many seconds do they flash together again for the first time\?"
)
def flashing_lights(a: int, b: int) -> int:
    return min({a * i for i in range(1, b + 1)} & {b * i for i in range(1, a + 1)})


@solver(
    r"A farm keeps only hens and cows, (\d+) animals in all\. Together they have (\d+) legs\. "
    r"How many cows are there\?"
)
def heads_and_legs(heads: int, legs: int) -> int:
    return only(cows for cows in range(heads + 1) if 4 * cows + 2 * (heads - cows) == legs)


@solver(
    r"The first term of an arithmetic sequence is \$(\d+)\$ and its common difference is \$(\d+)\$\. "
    r"Find the sum of its first \$(\d+)\$ terms\."
)
def arithmetic_series(a: int, d: int, n: int) -> int:
    return sum(itertools.islice(itertools.count(a, d), n))


@solver(r"How many positive divisors does \$(\d+)\$ have\?")
def divisor_count(n: int) -> int:
    return len(divisors(n))


@solver(r"Find the remainder when \$(\d+)\^\{(\d+)\}\$ is divided by \$(\d+)\$\.")
def modular_power(a: int, b: int, m: int) -> int:
    return int(a**b % m)


@solver(
    r"How many integers from \$1\$ to \$(\d+)\$ are divisible by \$(\d+)\$ or by \$(\d+)\$, but not by both\?"
)
def exactly_one_divides(n: int, a: int, b: int) -> int:
    return len(set(range(a, n + 1, a)) ^ set(range(b, n + 1, b)))


@solver(
    r"A path leads from \$\(0,0\)\$ to \$\((\d+),(\d+)\)\$ in steps of one unit to the right or one unit "
    r"up\. How many such paths do not pass through the point \$\((\d+),(\d+)\)\$\?"
)
def grid_paths(m: int, n: int, p: int, q: int) -> int:
    @cache
    def paths(x: int, y: int) -> int:
        if (x, y) == (p, q) or x < 0 or y < 0:
            return 0
        return 1 if (x, y) == (0, 0) else paths(x - 1, y) + paths(x, y - 1)

    return paths(m, n)


@solver(
    r"Find the least positive integer that leaves remainder \$(\d+)\$ when divided by \$(\d+)\$, "
    r"\$(\d+)\$ when divided by \$(\d+)\$ and \$(\d+)\$ when divided by \$(\d+)\$\."
)
def three_remainders(*numbers: int) -> int:
    a, b, c = numbers[1::2]
    return next(n for n in itertools.count(1) if (n % a, n % b, n % c) == numbers[::2])


@solver(
    r"How many pairs of integers \$\(a, b\)\$ with \$1 \\le a < b \\le (\d+)\$ have a sum \$a \+ b\$ that is "
    r"divisible by \$(\d+)\$\?"
)
def pairs_with_divisible_sum(n: int, k: int) -> int:
    return sum((a + b) % k == 0 for a, b in itertools.combinations(range(1, n + 1), 2))


@solver(
    r"A sequence is defined by \$a_1 = (\d+)\$, \$a_2 = (\d+)\$ and "
    r"\$a_n = (\d*)a_\{n-1\} \+ (\d*)a_\{n-2\}\$ for all \$n \\ge 3\$\. "
    r"Find the remainder when \$a_\{(\d+)\}\$ is divided by \$10\^5\$\."
)
def recurrence(a1: int, a2: int, c: int | str, d: int | str, n: int) -> int:
    terms = [a1, a2]
    while len(terms) < n:
        terms.append((int(c or 1) * terms[-1] + int(d or 1) * terms[-2]) % 100_000)
    return terms[n - 1]


@solver(r"How many positive integers less than \$10\^(\d)\$ have digits that add up to \$(\d+)\$\?")
def digit_sum_count(k: int, s: int) -> int:
    return digit_sums(k)[s]


@cache
def digit_sums(k: int) -> Counter[int]:
    return Counter(sum(map(int, str(n))) for n in range(1, 10**k))


@solver(r"How many ordered pairs of integers \$\(x, y\)\$ satisfy \$x\^2 \+ y\^2 \\le (\d+)\$\?")
def points_in_circle(n: int) -> int:
    side = range(-60, 61)
    assert n < 60**2
    return sum(x * x + y * y <= n for x in side for y in side)


@solver(r"How many ordered triples \$\(a, b, c\)\$ of positive integers satisfy \$abc = (\d+)\$\?")
def factor_triples(n: int) -> int:
    factors = divisors(n)
    return sum(n % (a * b) == 0 for a in factors for b in factors)


@solver(
    r"Let \$N\$ be the number of subsets of \$\\\{1, 2, \\dots, (\d+)\\\}\$, the empty set included, that "
    r"contain no two elements with difference \$(\d)\$\. "
    r"Find the remainder when \$N\$ is divided by \$10\^5\$\."
)
def subsets_without_difference(n: int, k: int) -> int:
    if n <= 12:
        return sum(not subset & (subset >> k) for subset in range(2**n)) % 100_000
    counts = Counter({(0,) * k: 1})  # by which of the last k elements are in the subset, oldest first
    for _ in range(n):
        following: Counter[tuple[int, ...]] = Counter()
        for last, count in counts.items():
            for chosen in (0,) if last[0] else (0, 1):
                following[(*last[1:], chosen)] += count
        counts = following
    return sum(counts.values()) % 100_000


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def only(values: Iterable[int]) -> int:
    (value,) = values
    return value


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seeds", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_answers_agree_with_brute_force(level: int, seeds: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(seeds):
        for sample in itertools.islice(stream(seed, level), 3 * len(FAMILIES[level])):
            assert solve(sample) == sample.answer, sample
            assert 0 <= sample.answer <= 99_999
            assert sample.level == level
            seen[sample.family] += 1
    assert seen == {family.__name__: 3 * seeds for family in FAMILIES[level]}


def test_brute_force_disagrees_with_a_wrong_answer() -> None:
    for level in LEVELS:
        for sample in itertools.islice(stream(0, level), len(FAMILIES[level])):
            assert solve(sample) != sample.answer + 1


def test_every_family_has_its_solver() -> None:
    assert set(SOLVERS) == {family.__name__ for families in FAMILIES.values() for family in families}


def test_stream_is_seeded_and_endless() -> None:
    first = list(itertools.islice(stream(7, 5), 500))
    assert first == list(itertools.islice(stream(7, 5), 500))
    assert first != list(itertools.islice(stream(8, 5), 500))
    assert len({sample.text for sample in first}) > 400
    with pytest.raises(ValueError, match="level 6 does not exist; the levels are 1, 2, 3, 4, 5"):
        next(stream(0, 6))


def test_generate_is_ordered_and_unique() -> None:
    samples = generate(203, seed=1)
    levels = [sample.level for sample in samples]
    assert levels == sorted(levels)
    assert Counter(levels) == {1: 43, 2: 40, 3: 40, 4: 40, 5: 40}
    assert len({sample.id for sample in samples}) == len({sample.text for sample in samples}) == 203


@pytest.mark.parametrize("count", [0, -3])
def test_counts_below_one_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count {count} must be at least 1"):
        generate(count, seed=0)


def test_more_problems_than_a_level_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [family for family in FAMILIES[1] if family.__name__ == "sum_of_two"]
    monkeypatch.setitem(FAMILIES, 1, few)
    with pytest.raises(ValueError, match="count 500 is more than level 1 has different problems"):
        generate(500, seed=0)


def test_shipped_problems_are_the_generators() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == to_csv(generate(SHIPPED_COUNT, SHIPPED_SEED))


def test_shipped_problems_load_as_a_demo_contest() -> None:
    settings = ContestSettings.load(profile_path("demo"))
    problems = load_problems(SHIPPED, settings.rules)
    assert len(problems) == settings.rules.expected_problems
    with SHIPPED.open(encoding="utf-8", newline="") as file:
        levels = Counter(int(row["level"]) for row in csv.DictReader(file))
    assert set(levels) == set(LEVELS)
    assert levels[1] >= 3  # what a model of 135M parameters can hope to solve
    samples = generate(SHIPPED_COUNT, SHIPPED_SEED)
    assert [(problem.id, problem.text, problem.answer) for problem in problems] == [
        (sample.id, sample.text, solve(sample)) for sample in samples
    ]


def test_command_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "made" / "problems.csv"
    command = [sys.executable, "-m", "kit.samples", "--out", str(out), "--count", "7", "--seed", "5"]
    subprocess.run(command, check=True, timeout=60, cwd=SHIPPED.parents[2])
    assert out.read_text(encoding="utf-8") == to_csv(generate(7, 5))
    command[-3] = "0"
    done = subprocess.run(
        command, check=False, timeout=60, cwd=SHIPPED.parents[2], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "count 0 must be at least 1" in done.stderr
    assert "Traceback" not in done.stderr

r"""The answer checker against math-verify, on real model outputs and on golds in other spellings.

    python -m benchmarks.answers [--limit N] [--python PATH] [--json PATH]

Both see the same text and gold in the same run, in turn, each in a process of its own. "Right" counts pairs
labelled equal that a checker calls equal, "false" those labelled different that it calls equal. The ratio is
that of all pairs, its range that of `TURNS` samples of them. math-verify runs as its own documentation says
(`parse` with boxes first, then `verify`), with its default time-outs. Labels of the Qwen samples are their
harness's own and miss some equal spellings (10{,}000 and 10000); both checkers meet the same.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.peers.process import Peer, Python, open_peer
from benchmarks.shared import shared_file
from submission.answers import check, parse_gold
from submission.cli import run
from submission.files import write_text
from submission.parsing.symbolic import SymbolicChecker

TURNS = 8


class Pair(NamedTuple):
    """One line of a corpus: does `completion` give the answer `gold`?"""

    completion: str
    gold: str
    equal: bool


class Score(NamedTuple):
    """How one checker fared on one corpus."""

    right: int
    false: int
    microseconds: float


class Row(NamedTuple):
    """One corpus: how many pairs, how many of them labelled equal, and both checkers' scores.

    Args:
        differ: pairs on which the two disagree.
        ratios: of each turn.
    """

    corpus: str
    pairs: int
    equal: int
    ours: Score
    math_verify: Score
    differ: int
    ratios: list[float]

    @property
    def ratio(self) -> float:
        """How many of our checks run in the time of one of math-verify's."""
        return self.math_verify.microseconds / self.ours.microseconds


def gsm8k_solutions() -> Iterator[Pair]:
    """Four models' solutions to GSM8K test, labelled by the data set's authors; all end with "A: n"."""
    for line in _lines("gsm8k/example_model_solutions.jsonl"):
        gold = line["ground_truth"].rpartition("A: ")[2].strip()
        for solution in line.values():
            if isinstance(solution, dict):
                yield Pair(solution["solution"], gold, bool(solution["is_correct"]))


def qwen_samples() -> Iterator[Pair]:
    """Whole Qwen2.5-Math-7B responses on MATH, labelled by their harness."""
    for line in _lines("samples/qwen2.5-math-7b_math_8samples.jsonl"):
        for response, score in zip(line["code"], line["score"], strict=True):
            yield Pair(response, line["gt"], bool(score))


def math500_spellings() -> Iterator[Pair]:
    """MATH-500 golds, boxed, each in the other spellings that apply to it."""
    for gold in _math500():
        for spelling in respell(gold):
            yield Pair(rf"The answer is \boxed{{{spelling}}}.", gold, True)


def math500_shuffled() -> Iterator[Pair]:
    """MATH-500 golds against others from the file."""
    golds = _math500()
    for step in (1, 7, 31):
        for gold, other in zip(golds, golds[step:] + golds[:step], strict=True):
            if gold.rpartition("=")[2] != other.rpartition("=")[2]:
                yield Pair(rf"The answer is \boxed{{{other}}}.", gold, False)


def integers() -> Iterator[Pair]:
    """Boxed integers in a sentence, right and wrong by turns: the contest's own case."""
    for number in range(0, 100_000, 97):
        yield Pair(rf"Adding both cases gives $\boxed{{{number}}}$.", str(number), True)
        yield Pair(rf"Adding both cases gives $\boxed{{{number + 1}}}$.", str(number), False)


CORPORA: dict[str, tuple[str | None, Callable[[], Iterator[Pair]]]] = {
    "boxed integers": (None, integers),
    "GSM8K": ("gsm8k/example_model_solutions.jsonl", gsm8k_solutions),
    "Qwen2.5-Math": ("samples/qwen2.5-math-7b_math_8samples.jsonl", qwen_samples),
    "respelled": ("math/math500.jsonl", math500_spellings),
    "shuffled": ("math/math500.jsonl", math500_shuffled),
}


def respell(gold: str) -> list[str]:
    r"""Other ways to type a MATH answer that mean the same."""
    spellings = [
        gold,
        f" {gold} ",
        f"{gold}.",
        f"${gold}$",
        rf"\displaystyle {gold}",
        gold.replace(r"\dfrac", r"\frac").replace(r"\frac", r"\dfrac"),
        gold.replace(r"\dfrac", r"\frac").replace(r"\frac", r"\tfrac"),
        re.sub(r"\\d?frac\{([0-9])\}\{([0-9])\}", r"\\frac\1\2", gold),
        re.sub(r"^(-?)\\d?frac\{([0-9]+)\}\{([0-9]+)\}$", r"\1\2/\3", gold),
        gold.replace(r"\left", "").replace(r"\right", ""),
        gold.replace(" ", ""),
        re.sub(r",(?![0-9]{3}\b|\\!| )", ", ", gold.replace("+", " + ")),
        re.sub(r"^([0-9]+)$", r"\1.0", gold),
        re.sub(r"^([0-9]+)$", r"\1\\text{ units}", gold),
        re.sub(r"^([0-9]+)$", r"x = \1", gold),
        re.sub(r"^([0-9]{1,3})([0-9]{3})$", r"\1{,}\2", gold),
        re.sub(r"^([0-9]{1,3})([0-9]{3})$", r"\1\\,\2", gold),
        gold.replace(r"^\circ", r"^{\circ}"),
        gold.replace(r"^\circ", ""),
        gold.replace(r"^\circ", r"\text{ degrees}"),
        re.sub(r"\\text\{(\w+)\}", r"\\textbf{\1}", gold),
        re.sub(r"\\text\{(\w+)\}", r"\1", gold),
        re.sub(r"(?<![(,\[].)\((?![^()]*,)", r"\\left(", gold).replace(")", r"\right)")
        if gold.count("(") == gold.count(")") == 1 and "," not in gold
        else gold,
        gold.replace("pmatrix", "bmatrix"),
    ]
    return list(dict.fromkeys(spellings))


def compare_corpus(name: str, pairs: list[Pair], checker: SymbolicChecker, peer: Peer) -> Row:
    """Both checkers over one corpus, in turn over every `TURNS`-th pair."""
    # Golds are read once, at load time, by both.
    golds = {pair.gold: parse_gold(pair.gold) for pair in pairs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        path.write_text("".join(json.dumps(pair._asdict()) + "\n" for pair in pairs), encoding="utf-8")
        peer.ask({"pairs": str(path)})
    verdicts: tuple[list[bool], list[bool]] = ([False] * len(pairs), [False] * len(pairs))
    seconds: tuple[list[float], list[float]] = ([], [])

    def ours(start: int, step: int) -> None:
        spent = 0.0
        for index in range(start, len(pairs), step):
            began = time.perf_counter()
            verdicts[0][index] = check(pairs[index].completion, golds[pairs[index].gold], checker)
            spent += time.perf_counter() - began
        seconds[0].append(spent)

    def theirs(start: int, step: int) -> None:
        reply = peer.ask({"start": start, "step": step})
        verdicts[1][start::step] = reply["equal"]
        seconds[1].append(reply["seconds"])

    check(pairs[0].completion, golds[pairs[0].gold], checker)  # the peer has warmed up, too
    turns = min(TURNS, len(pairs))
    for turn in track(range(turns), name, transient=True, console=Console(stderr=True)):
        # Who goes first changes, too: a machine that warms up or slows down favours nobody.
        for side in (ours, theirs)[:: -1 if turn % 2 else 1]:
            side(turn, turns)
    return Row(
        name,
        len(pairs),
        sum(pair.equal for pair in pairs),
        _score(pairs, verdicts[0], seconds[0]),
        _score(pairs, verdicts[1], seconds[1]),
        differ=sum(one != other for one, other in zip(*verdicts, strict=True)),
        ratios=[theirs / ours for ours, theirs in zip(*seconds, strict=True)],
    )


def _score(pairs: list[Pair], verdicts: list[bool], seconds: list[float]) -> Score:
    right = sum(verdict and pair.equal for verdict, pair in zip(verdicts, pairs, strict=True))
    false = sum(verdict and not pair.equal for verdict, pair in zip(verdicts, pairs, strict=True))
    return Score(right, false, 1e6 * sum(seconds) / len(pairs))


def _math500() -> list[str]:
    return [line["answer"] for line in _lines("math/math500.jsonl")]


def _lines(name: str) -> Iterator[dict[str, Any]]:
    path = shared_file(name)
    assert path is not None
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _print(rows: list[Row]) -> None:
    title = "Pairs called equal, and microseconds (us) a check: ours and math-verify (m-v)"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("corpus", "pairs", "equal", "right", "m-v", "false", "m-v", "us", "m-v", "ratio"):
        table.add_column(heading, justify="left" if heading == "corpus" else "right", no_wrap=True)
    for row in rows:
        ours, theirs = row.ours, row.math_verify
        table.add_row(
            row.corpus,
            *map(str, (row.pairs, row.equal, ours.right, theirs.right, ours.false, theirs.false)),
            f"{ours.microseconds:.0f}",
            f"{theirs.microseconds:.0f}",
            f"{row.ratio:.1f}",
        )
    Console().print(table)


def main(
    limit: Annotated[int, typer.Option(min=1, help="Pairs of a corpus at most.")] = 1_000_000,
    python: Python = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Compare our answer checker with math-verify."""
    rows = []
    with SymbolicChecker() as checker, open_peer(python or Path(sys.executable), "checks", {}) as peer:
        checker.equal("x", "y")
        for name, (needs, pairs) in CORPORA.items():
            if needs and shared_file(needs) is None:
                note = f"{name}: skipped, {needs} is not here (set AIMO_SHARED to its folder)"
                Console(stderr=True).print(note)
                continue
            rows.append(compare_corpus(name, list(pairs())[:limit], checker, peer))
        counters = {name: getattr(checker, name) for name in ("comparisons", "timeouts", "crashes")}
    _print(rows)
    Console().print(", ".join(f"symbolic {name} {count}" for name, count in counters.items()))
    if json_path:
        figures = [
            {**row._asdict(), "ours": row.ours._asdict(), "math_verify": row.math_verify._asdict()}
            for row in rows
        ]
        told = {"corpora": figures, "symbolic": counters, "versions": peer.versions}
        write_text(json_path, json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    run(lambda: typer.run(main))

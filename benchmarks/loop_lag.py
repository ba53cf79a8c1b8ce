"""How long the contest's event loop is held up: a probe on it, while the worst that we know is going on.

    python -m benchmarks.loop_lag [--repeats 3] [--model FOLDER] [--json PATH]

The contest, its solver, journal, tokenizer and sandbox are the real ones; the engine is scripted: it streams
texts of 100 kB to 16 agents in step, faster than any model, so that what comes together now and then (all
samples end at once, all are cut off at once) comes together every time. A coroutine beside them asks to be
woken every millisecond and notes how late it was.

Each part is played several times. A delay of the machine's own making (two cores, other processes) does not
come back at the same place, a step that blocks does: a part's figure is the least of its repeats' longest.
Beside it stands the longest that the loop's thread itself computed in one go: no other process lengthens it.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.table import Table

from submission.agents.team import Role, Team
from submission.cli import run
from submission.clock import Stopwatch
from submission.contest import Contest
from submission.engines.base import Chunk, FinishReason, SampleRequest
from submission.engines.supervised import freeze
from submission.engines.tokenizer import CheckpointEngine
from submission.files import write_text
from submission.journal import Journal
from submission.settings import BudgetSettings, ContestSettings, SolverSettings

LIMIT_MS = 50.0
AGENTS = 16
LENGTH = 100_000
"""Characters of a text."""
CHUNK = 64
"""Tokens that come at once."""
PAUSE = 0.001
MARK = "```output"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@dataclass(frozen=True)
class Round:
    """What the engine writes when asked once: the stop string is among the tokens, and not in the text."""

    text: str
    calls: bool = False
    """Whether it ends with the output mark."""
    finish: FinishReason = "stop"


Script = Sequence[Round]
"""A sample's rounds."""


class ScriptedEngine(CheckpointEngine):
    """Plays scripts, all samples in step; tokens are those of a real checkpoint's tokenizer."""

    def __init__(self, model: Path, scripts: Sequence[Script]) -> None:
        self._model = model
        self._scripts = scripts
        self._ids: dict[str, list[int]] = {}
        self._asked: defaultdict[tuple[str, int], int] = defaultdict(int)

    async def start(self) -> None:
        """Load the tokenizer, and tokenize every text beforehand."""
        self.load_tokenizer(self._model, 1 << 17)
        freeze()  # as the contest's own engine does with its tokenizer
        self._max_context = 1 << 17  # of the scripts, whatever the checkpoint's own
        for script in self._scripts:
            for one in script:
                whole = one.text + MARK if one.calls else one.text
                self._ids.setdefault(whole, self.encode_text(whole))

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """The sample's next round, `CHUNK` tokens a turn of the loop."""
        sample = (request.problem, request.attempt)
        script = self._scripts[request.attempt % len(self._scripts)]
        one = script[min(self._asked[sample], len(script) - 1)]
        self._asked[sample] += 1
        ids = self._ids[one.text + MARK if one.calls else one.text]
        parts = -(-len(ids) // CHUNK)
        for part in range(parts):
            begin, end = (len(one.text) * at // parts for at in (part, part + 1))
            tokens = tuple(ids[part * CHUNK : (part + 1) * CHUNK])
            finish = one.finish if part == parts - 1 else None
            yield Chunk(one.text[begin:end], tokens, (-0.1,) * len(tokens), finish)
            await asyncio.sleep(0)

    async def abort(self, request_id: str) -> None:
        """A sample is ended by leaving its stream."""

    async def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Part:
    """One thing that goes on in a contest."""

    title: str
    scripts: Sequence[Script]
    solver: Mapping[str, Any] = field(default_factory=dict)
    team: Team = field(default_factory=Team)

    def settings(self) -> ContestSettings:
        """Sixteen agents; every sample is drawn to its end, unless the part says otherwise."""
        given = {"num_agents": AGENTS, "policy": "fixed", "max_tokens": 1 << 16, **self.solver}
        budget = BudgetSettings(cap=600, floor=0)
        return ContestSettings(solver=SolverSettings.model_validate(given), budget=budget, team=self.team)


class Probe:
    """Notes how late it is woken, while it is entered. Belongs to the running loop."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        """Milliseconds."""
        self.computed = 0.0
        """Milliseconds of CPU that the loop's thread took at most between two wakes."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.sleep(2 * PAUSE)  # what blocked last is noted too
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            begun, computed = time.perf_counter(), time.thread_time()
            await asyncio.sleep(PAUSE)
            self.delays.append(1e3 * (time.perf_counter() - begun - PAUSE))
            self.computed = max(self.computed, 1e3 * (time.thread_time() - computed))


def reasoning(length: int) -> str:
    """A long honest text without an answer."""
    line = "Let us see: \\frac{{1}}{{2}} of {0} and 37x is {1}, so $x = {0}$ is not yet the answer.\n\n"
    lines = [line.format(number, number * 37) for number in range(length // 60)]
    return "".join(lines)[:length]


def boxed(answer: int, length: int) -> str:
    """A long honest text that ends with an answer."""
    return f"{reasoning(length)}\n\nSo the answer is \\boxed{{{answer}}}."


def hostile(length: int) -> list[str]:
    """Texts that parsers take long over; some of them by a box as long as an answer may be."""
    inner = {
        *("½" * 1_990, "\ufdfa" * 1_990, "a=" + "1a_" * 660, "x=1\\quad " * 200, "\\frac{1}{" * 220),
        *("((" * 990, "5" + "!" * 190, "{ , }" * 390, "1,a " * 490, "x_{" * 660),
    }
    whole = [f"{part * (length // len(part))}" for part in ("\\boxed{", "\\boxed ", "A:", "\nA:", "{", "$")]
    whole += [f"{part * (length // len(part))}" for part in ("answer is $", "Answer: x ", "1,111", "1")]
    whole += ["\\boxed{" * (length // 9) + "1" + "}" * (length // 9), "answer:" + " " * length]
    boxes = [f"{reasoning(length - 2_000)}\\boxed{{{one}}}" for one in sorted(inner)]
    says = [f"{reasoning(length - 2_000)}The answer is {one}" for one in sorted(inner)]
    return [*whole, *boxes, *says]


def parts(length: int) -> dict[str, Part]:
    """What is measured, texts of `length` characters."""
    coder = Team(roles=(Role(name="coder", tools="fenced", rounds=8),))
    checked = Team(
        roles=(
            Role(name="solver"),
            Role(name="verifier", task="verify", user_prompt="{problem}\n{candidate}\n{answer}?"),
            Role(name="selector", task="select", user_prompt="{problem}\n{candidates}"),
        )
    )
    printing = "```python\nfor i in range(20000):\n    print(i, 'x' * 50)\n```\n"
    fences = {
        line: line * (length // len(line)) for line in ("```python\n", "```python\nx = 1\n", "```py \n")
    }
    ended = boxed(5, length)
    return {
        "stream": Part("16 texts of 100 kB stream in and end together", [[Round(ended)]]),
        "tools": Part(
            "16 agents with three calls each that print 1 MB",
            [[Round(printing, calls=True)] * 3 + [Round(boxed(5, 500))]],
            team=coder,
        ),
        "fences": Part(
            "16 agents call their tool with 100 kB of opened blocks",
            [[Round(text, calls=True), Round(boxed(5, 500))] for text in fences.values()],
            team=coder,
        ),
        "answers": Part(
            "answers of hostile texts of 100 kB, that end together",
            [[Round(text)] for text in hostile(length)],
            {"last_number": True, "num_agents": len(hostile(length))},
        ),
        "aborts": Part(
            "four agree, twelve of 100 kB are cut off",
            [*[[Round(boxed(5, length - 1_000))]] * 4, *[[Round(ended + reasoning(length))]] * 12],
            {"policy": "agree", "agree": 4},
        ),
        "policy": Part(
            "the policy `value` looks ahead, 16 agents and 32 attempts, divided votes",
            [[Round(boxed(number * number % 13, 400 + 500 * number))] for number in range(32)],
            {"policy": "value", "max_attempts": 32},
        ),
        "checking": Part(
            "verifiers and a selector read split answers of 100 kB",
            [[Round(boxed(number % 3, length))] for number in range(16)],
            {"policy": "value"},
            team=checked,
        ),
    }


async def play(part: Part, model: Path, journal: Path, repeats: int) -> list[Probe]:
    """What a probe noted in each repeat, a problem of one contest each.

    Raises:
        ValueError: a sample failed or the staff did not start: then nothing was measured.
    """
    engine = ScriptedEngine(model, part.scripts)
    kept = Journal(journal)
    contest = Contest(part.settings(), engine, kept, Stopwatch())
    measured = []
    try:
        contest.start()
        # The first problem is a warm-up: caches fill, modules load, the sandbox forks.
        for number in range(repeats + 1):
            async with Probe() as probe:
                await contest.answer(f"{part.title}-{number}", "What is 2 + 3?")
            measured.append(probe)
    finally:
        await contest.close()
    _check(journal)
    return measured[1:]


def _check(journal: Path) -> None:
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    wrong = [line for line in lines if line["type"] == "fault" or line.get("finish") == "error"]
    if wrong:
        raise ValueError(f"a part did not run as it should: {wrong[0].get('error')}")


def summary(title: str, measured: Sequence[Probe]) -> dict[str, Any]:
    """Figures of one part: of its delays, and of each repeat's longest."""
    longest = [max(probe.delays) for probe in measured]
    delays = sorted(delay for probe in measured for delay in probe.delays)
    return {
        "title": title,
        "wakes": len(delays),
        "p99_ms": delays[int(0.99 * (len(delays) - 1))],
        "longest_ms": min(longest),
        "median_longest_ms": statistics.median(longest),
        "worst_ms": max(longest),
        "computed_ms": max(probe.computed for probe in measured),
    }


def measure(
    model: Path, repeats: int, length: int = LENGTH, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Every part in turn."""
    figures: dict[str, Any] = {"repeats": repeats, "length": length, "agents": AGENTS, "parts": {}}
    with tempfile.TemporaryDirectory(prefix="aimo-lag-") as folder:
        for name, part in parts(length).items():
            say(part.title)
            measured = asyncio.run(play(part, model, Path(folder) / f"{name}.jsonl", repeats))
            figures["parts"][name] = summary(part.title, measured)
    return figures


def section(figures: dict[str, Any]) -> list[str]:
    """The page's section on the event loop."""
    lines = [
        f"How late (ms) a coroutine that sleeps {1e3 * PAUSE:g} ms is woken on the contest's event loop,",
        f"while a scripted engine streams to {figures['agents']} agents faster than any model; contest,",
        "solver, journal, tokenizer and sandbox are the real ones. What the machine itself delays does not",
        f"come back: `longest` is the least of the longest of {figures['repeats']} repeats, `worst` the",
        "greatest of them, `computed` the longest that the loop's own thread computed between two wakes.",
        "",
        "| While | Wakes | p99 | Longest | Worst | Computed | Limit (longest) |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['title']} | {row['wakes']} | {row['p99_ms']:.1f} | {row['longest_ms']:.1f} "
        f"| {row['worst_ms']:.1f} | {row['computed_ms']:.1f} | {LIMIT_MS:g} |"
        for row in figures["parts"].values()
    ]
    return lines


@app.command()
def main(
    repeats: Annotated[int, typer.Option(min=1, help="Of each part.")] = 3,
    model: Annotated[
        Path | None, typer.Option(help="Whose tokenizer is used. Default: the kit's small model.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure every part; exit code 1 where one holds up the loop for longer than the limit."""
    if model is None:
        from kit.models import default_model

        model = default_model()
    figures = measure(model, repeats, say=lambda title: console.print(title, highlight=False))
    _print(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    if any(row["longest_ms"] > LIMIT_MS for row in figures["parts"].values()):
        raise typer.Exit(1)


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="How late the event loop is (ms)")
    for name in ("while", "wakes", "p99", "longest", "worst", "computed", "limit"):
        table.add_column(name, justify="left" if name == "while" else "right")
    for row in figures["parts"].values():
        values = [f"{row[name]:.1f}" for name in ("p99_ms", "longest_ms", "worst_ms", "computed_ms")]
        table.add_row(row["title"], str(row["wakes"]), *values, f"{LIMIT_MS:g}")
    console.print(table)


if __name__ == "__main__":
    run(app)

"""Command line of `python -m benchmarks.run`: contests, or samples without a limit, and their figures."""

import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from benchmarks.report.loading import PROBLEMS
from benchmarks.report.page import write_page
from benchmarks.run import options
from benchmarks.run.contamination import contaminated
from benchmarks.run.durations import parse_duration
from benchmarks.run.evaluating import evaluate
from benchmarks.run.plan import Plan, opened
from benchmarks.run.playing import play
from benchmarks.run.sets import ProblemSet, drawn, integers_only, load_catalogue, load_set
from benchmarks.run.showing import show
from benchmarks.run.tables import RESULTS
from benchmarks.shared import shared_file
from submission.cli import run
from submission.files import write_text
from submission.gateway.rehearsal import GatewayError
from submission.setup import resolve

DEFAULT_OUT = Path("runs/bench")
_UNSAFE = re.compile(r"[^\w.-]+")
KEPT = "what was played is kept; the same command continues"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sets: options.Sets,
    out: options.Out = None,
    bundle: options.BundleFolder = None,
    time_limit: options.TimeLimit = None,
    samples: options.Samples = None,
    repeat: options.Repeat = 1,
    optimization: options.OptimizationName = "",
    keep_integers: options.KeepIntegers = False,
    draw: options.Draw = None,
    catalogue: options.CatalogueFile = None,
    data: options.Data = None,
    training: options.Training = None,
    setting: options.Overrides = None,
    team: options.TeamOption = None,
    seed: options.Seed = 0,
    shuffle: options.Shuffle = True,
) -> None:
    """Play a bundle on problem sets and tell what it is worth."""
    limit = None if time_limit is None else parse_duration(time_limit)
    _check(samples, repeat, draw, limit, optimization)
    chosen = _load(sets, catalogue, data)
    settings = tuple(setting or ())
    base = resolve(bundle, settings, team=team).settings.rules
    if samples is None:
        limit = base.time_limit if limit is None else limit
        chosen = [
            integers_only(one, base.answer_min, base.answer_max, leave_out=keep_integers) for one in chosen
        ]
    if draw is not None:
        chosen = [drawn(one, draw, seed) for one in chosen]
    plan = Plan(
        bundle=bundle,
        sets=tuple(chosen),
        time_limit=limit,
        samples=samples,
        repeat=repeat,
        optimization=optimization,
        settings=settings,
        team=team,
        seed=seed,
        shuffle=shuffle,
    )
    for job in plan.jobs:
        plan.setup(job)  # every mistake in a setting shows before a folder is made
    carry_out(plan, out or default_folder(plan), contaminated(chosen, training) if training else {})


def carry_out(plan: Plan, out: Path, seen: dict[str, list[str]]) -> None:
    """Play what is not played yet, and write and show what all of it is worth."""
    console = Console()
    texts = {one.name: {item.id: item.text for item in one.items} for one in plan.sets}
    with opened(out, plan), _told_when_it_ends():
        try:
            write_text(out / PROBLEMS, json.dumps(texts) + "\n")
        except OSError as error:
            raise ValueError(f"--out {out}: cannot write there: {error.strerror}") from None
        results = evaluate(plan, play(plan, out, console), out, seen, console)
        show(results, console)
        page = write_page(out)
    console.print(Text(f"results    {out / RESULTS}\npage       {page}"), soft_wrap=True)


@contextmanager
def _told_when_it_ends() -> Iterator[None]:
    """A failed, terminated or interrupted run ends its contest's processes and says how to go on."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except GatewayError as error:
        _tell(f"the run failed: {error}\n{KEPT}")
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit):
        _tell(f"interrupted: {KEPT}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(line: str) -> None:
    Console(stderr=True, soft_wrap=True).print(line, style="red", markup=False, highlight=False)


def default_folder(plan: Plan) -> Path:
    """Named after the bundle, the sets and what is played: another bundle, set or limit is another run."""
    config = plan.config()
    limit = plan.time_limit or 0.0
    told = f"{plan.samples}-samples" if plan.samples is not None else f"{limit / 60:g}m"
    parts = [config["bundle"], *config["sets"], told, *([plan.optimization] if plan.optimization else [])]
    return DEFAULT_OUT / _UNSAFE.sub("-", "-".join(map(str, parts))).strip("-.")[:120]


def _check(
    samples: int | None, repeat: int, draw: int | None, limit: float | None, optimization: str
) -> None:
    for name, value in (("--samples", samples), ("--repeat", repeat), ("--draw", draw)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: must be at least 1")
    if samples is not None and limit is not None:
        raise ValueError("--samples has no limit: leave out --time-limit, or --samples for contests")
    if samples is not None and optimization:
        raise ValueError("--optimization is for contests: it changes how many samples are drawn")


def _load(names: str, catalogue: Path | None, data: Path | None) -> list[ProblemSet]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ValueError("--set names no problem set")
    known = load_catalogue(catalogue)
    chosen = [load_set(name, known, data or shared_file("")) for name in wanted]
    if len({one.name for one in chosen}) < len(chosen):
        raise ValueError(f"--set {names}: two sets have one name")
    for one in chosen:
        _check_texts(one)
    return chosen


def _check_texts(problems: ProblemSet) -> None:
    """Half a surrogate pair, which JSON can hold, is no character: no file, table or gateway takes it."""
    for number, item in enumerate(problems.items, 1):
        for what, text in (("id", item.id), ("problem", item.text)):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"set {problems.name}, problem {number}: its {what} holds half a character "
                    f"({text[error.start]!a} at {error.start}); mend the file"
                ) from None


if __name__ == "__main__":
    run(app)

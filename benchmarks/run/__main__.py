"""Command line of `python -m benchmarks.run`: contests, or samples without a limit, and their figures."""

import json
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.report.loading import PROBLEMS
from benchmarks.report.page import write_page
from benchmarks.run.contamination import contaminated
from benchmarks.run.durations import parse_duration
from benchmarks.run.environment import environment
from benchmarks.run.judging import Judge
from benchmarks.run.outcomes import Outcome, outcomes_of
from benchmarks.run.plan import Plan, opened, prm_rule
from benchmarks.run.playing import Finished, play
from benchmarks.run.scoring import score_rest
from benchmarks.run.sets import ProblemSet, drawn, integers_only, load_catalogue, load_set
from benchmarks.run.summary import summary
from benchmarks.run.tables import RESULTS, write_tables
from benchmarks.shared import shared_file
from submission.cli import run
from submission.files import write_text
from submission.gateway.rehearsal import GatewayError
from submission.setup import resolve

DEFAULT_OUT = Path("runs/bench")
_UNSAFE = re.compile(r"[^\w.-]+")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sets: Annotated[str, typer.Option("--set", help="Sets by short name or file, separated by commas.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; the same command continues there. Default: below runs/bench."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle; without it MATH_MODEL_PATH names the model.")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option("--time-limit", help="Of one contest, start-up included: 300m, 5h. Default: its own."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="In place of contests: so many samples a problem, without a limit.")
    ] = None,
    repeat: Annotated[int, typer.Option(help="Contests with each set; more may be asked for later.")] = 1,
    optimization: Annotated[str, typer.Option(help="accuracy, speed or balanced. Default: as it is.")] = "",
    keep_integers: Annotated[
        bool, typer.Option("--keep-integers", help="Leave out problems that no contest can ask.")
    ] = False,
    draw: Annotated[
        int | None, typer.Option(help="Play so many problems of each set, drawn with the seed.")
    ] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="TOML of own sets, as benchmarks/run/sets.toml.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of local copies of sets.")] = None,
    training: Annotated[
        str | None, typer.Option(help="Training data: tells which problems were in it.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--setting", help="Override a setting: solver.temperature=0.7.")
    ] = None,
    team: Annotated[str | None, typer.Option(help="A shipped team, or a team's file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of problems and of sampling.")] = 0,
    shuffle: Annotated[
        bool, typer.Option("--shuffle/--in-order", help="Another order of problems in each contest.")
    ] = True,
) -> None:
    """Play a bundle on problem sets and tell what it is worth."""
    limit = None if time_limit is None else parse_duration(time_limit)
    _check(samples, repeat, draw, limit)
    if samples is not None and optimization:
        raise ValueError("--optimization is for contests: it changes how many samples are drawn")
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
    seen = contaminated(chosen, training) if training else {}
    # A terminated run ends its contest's processes and leaves them nowhere.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    out = out or default_folder(plan)
    with opened(out, plan):
        texts = {one.name: {item.id: item.text for item in one.items} for one in chosen}
        write_text(out / PROBLEMS, json.dumps(texts) + "\n")
        try:
            finished = play(plan, out, console)
        except GatewayError as error:
            Console(stderr=True, soft_wrap=True).print(
                f"the run failed: {error}\nwhat was played is kept; the same command continues",
                style="red",
                markup=False,
            )
            sys.exit(1)
        results = evaluate(plan, finished, out, seen, console)
        show(results, console)
        page = write_page(out)
    console.print(Text(f"results    {out / RESULTS}\npage       {page}"), soft_wrap=True)


def default_folder(plan: Plan) -> Path:
    """Named after the bundle, the sets and what is played: another bundle, set or limit is another run."""
    config = plan.config()
    limit = plan.time_limit or 0.0
    told = f"{plan.samples}-samples" if plan.samples is not None else f"{limit / 60:g}m"
    parts = [config["bundle"], *config["sets"], told, *([plan.optimization] if plan.optimization else [])]
    return DEFAULT_OUT / _UNSAFE.sub("-", "-".join(map(str, parts))).strip("-.")[:120]


def _check(samples: int | None, repeat: int, draw: int | None, limit: float | None) -> None:
    for name, value in (("--samples", samples), ("--repeat", repeat), ("--draw", draw)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: must be at least 1")
    if samples is not None and limit is not None:
        raise ValueError("--samples has no limit: leave out --time-limit, or --samples for contests")


def _load(names: str, catalogue: Path | None, data: Path | None) -> list[ProblemSet]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ValueError("--set names no problem set")
    known = load_catalogue(catalogue)
    chosen = [load_set(name, known, data or shared_file("")) for name in wanted]
    if len({one.name for one in chosen}) < len(chosen):
        raise ValueError(f"--set {names}: two sets have one name")
    return chosen


def evaluate(
    plan: Plan, finished: list[Finished], out: Path, seen: dict[str, list[str]], console: Console
) -> dict[str, Any]:
    """Judge all samples, write the run's files, give its figures."""
    rule = prm_rule(finished[0].setup) if plan.samples is not None else None
    outcomes: list[Outcome] = []
    with Judge() as judge:
        for one in finished:
            scores = score_rest(one, one.job.folder(out), console) if rule is not None else {}
            outcomes += outcomes_of(one, judge, scores, contest=plan.samples is None)
    results = {
        **plan.config(),
        "repeat": plan.repeat,
        "prm_rule": None if rule is None else str(rule),
        "contests": [_contest(one) for one in finished],
        "figures": summary(outcomes, samples=plan.samples, rule=rule, contaminated=seen, seed=plan.seed),
    }
    how = finished[0].setup.rule.aggregate
    write_tables(out, outcomes, results, environment(plan.bundle), how)
    return results


def _contest(one: Finished) -> dict[str, Any]:
    """What is told of each contest."""
    contest = one.contest
    return {
        "set": one.job.problems.name,
        "repeat": one.job.repeat,
        "elapsed": contest.elapsed,
        "time_limit": one.setup.settings.rules.time_limit,
        "ready": contest.ready,
        "starts": contest.starts,
        "faults": list(contest.faults),
        "notes": list(one.setup.notes),
        "order": [name for name, _ in sorted(contest.problems.items(), key=lambda pair: pair[1].begun)],
    }


def show(results: dict[str, Any], console: Console) -> None:
    """The figures that decide, on a terminal."""
    table = Table(title=Text(f"{results['bundle']}, {results['mode']}"))
    columns = ["set", "problems", "accuracy (95 %)", "pass@1", "loss", "N_eff"]
    for name in columns:
        table.add_column(name, justify="left" if name == "set" else "right")
    for name, found in results["figures"].items():
        attempts = found["attempts"]
        table.add_row(
            Text(name),
            str(found["problems"]),
            _spelled(found["accuracy"]),
            _percent(attempts.get("pass_1")),
            _percent(attempts.get("selection_loss")),
            "-" if attempts.get("effective") is None else f"{attempts['effective']:.1f}",
        )
    console.print(table)
    for name, found in results["figures"].items():
        if "at_k" in found:
            console.print(_at_k(name, found["at_k"]))
        if found.get("missing"):
            line = f"{name}: {found['missing']} samples failed or never were; they count as wrong"
            console.print(Text(line, "bold red"))
        if found.get("contaminated"):
            clean = found["accuracy_clean"]
            told = "none is left" if clean is None else f"{_spelled(clean)} without them"
            line = f"{name}: {len(found['contaminated'])} problems were in the training data; {told}"
            console.print(Text(line, "yellow"))
        if found.get("least_difference") is not None:
            line = (
                f"{name}: shows a difference of {100 * found['least_difference']:.1f} points or more between "
            )
            console.print(line + "two such runs (power 0.8)", markup=False, highlight=False)
    for fault in dict.fromkeys(fault for one in results["contests"] for fault in one["faults"]):
        console.print(Text(f"fault: {fault}", "bold red"))


def _at_k(name: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=Text(f"{name}: accuracy at k samples"))
    kinds = [kind for kind in ("pass", "maj", "prm") if kind in rows[0]]
    for title in ("k", *(f"{kind}@k" for kind in kinds)):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(str(row["k"]), *(_spelled(row[kind]) for kind in kinds))
    return table


def _spelled(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    run(app)

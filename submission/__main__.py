"""Command line of the contest runtime: a local contest, the server under Kaggle, or one problem."""

import logging
import math
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from submission.cli import run
from submission.logs import log_to_stderr
from submission.preflight import before_contest
from submission.setup import Setup, resolve

app = typer.Typer(
    add_completion=False, rich_markup_mode="markdown", no_args_is_help=True, pretty_exceptions_enable=False
)

PAUSES = (1.0, 3.0)
"""Seconds before a bundle that cannot be used is looked at once more, in the run that counts."""

BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="Bundle made by kit.package. Without it MATH_MODEL_PATH names the model."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: `solver.temperature=0.7`. May be given several times."),
]
AgentsOption = Annotated[int | None, typer.Option("--num-agents", help="Samples that run side by side.")]
AttemptsOption = Annotated[int | None, typer.Option("--max-attempts", help="Samples a problem at most.")]


TeamOption = Annotated[
    str | None,
    typer.Option("--team", help="Who works on a problem: solo, tools, mixed, qwen, gpt_oss, or a TOML file."),
]


def _overrides(extra: list[str] | None, **named: object) -> list[str]:
    given = [f"{key.replace('__', '.')}={value}" for key, value in named.items() if value is not None]
    return [*given, *(extra or [])]


def _positive(name: str, seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{name} {seconds:g} must be a positive number of seconds")
    return seconds


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    bundle: BundleOption = None,
    problems: Annotated[
        Path | None, typer.Option(help="csv, jsonl or parquet with columns id, problem and perhaps answer.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The submission (.parquet or .csv); journal and report lie beside it.")
    ] = Path("submission.parquet"),
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", help="Seconds for the whole contest, start-up included.")
    ] = None,
    call_limit: Annotated[
        float,
        typer.Option("--call-limit", help="The gateway's deadline in seconds for every call but the first."),
    ] = 1800.0,
    shuffle: Annotated[
        int | None, typer.Option(help="Ask the problems in the random order of this seed.")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start anew, even if this contest was interrupted before."),
    ] = False,
    num_agents: AgentsOption = None,
    max_attempts: AttemptsOption = None,
    team: TeamOption = None,
    setting: SetOption = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the organiser's gateway (what the notebook calls).")
    ] = False,
    journal: Annotated[Path | None, typer.Option(help="Where --serve keeps its journal.")] = None,
    rehearsal_socket: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Play a contest: `--problems FILE` on this machine, or `--serve` under the organiser's gateway."""
    if context.invoked_subcommand:
        return
    overrides = _overrides(
        setting,
        rules__time_limit=time_limit,
        solver__num_agents=num_agents,
        solver__max_attempts=max_attempts,
    )
    if serve:
        _serve(bundle, overrides, journal, rehearsal_socket, problems, team)
    elif problems is not None:
        _positive("--call-limit", call_limit)
        _contest(
            bundle, overrides, problems, out, team=team, call_limit=call_limit, shuffle=shuffle, fresh=fresh
        )
    else:
        raise ValueError("nothing to do: give --problems FILE for a local contest, --serve, or `solve`")


def _serve(
    bundle: Path | None,
    overrides: list[str],
    journal: Path | None,
    socket: Path | None,
    test_csv: Path | None,
    team: str | None,
) -> None:
    log_to_stderr()
    from submission.serve import is_rerun, serve_organiser, serve_rehearsal

    journal = journal or Path("aimo.journal.jsonl")
    if socket is not None:
        serve_rehearsal(resolve(bundle, overrides, team=team), journal, socket, bundle)
        return
    # At commit time this must fail loudly; in the run that counts a file of defaults beats none.
    setup = _resolved(bundle, overrides, team) if is_rerun() else resolve(bundle, overrides, team=team)
    if setup is not None:
        before_contest(
            setup.settings,
            bundle=bundle,
            model=setup.model,
            prm=setup.prm,
            work=journal.parent,
            rerun=is_rerun(),
        )
    serve_organiser(setup, journal, test_csv, bundle)


def _resolved(bundle: Path | None, overrides: list[str], team: str | None) -> Setup | None:
    """What a rerun is played with; None where there is nothing, after what a mount may fail for a moment."""
    for pause in (*PAUSES, 0.0):
        try:
            return resolve(bundle, overrides, team=team, strict=False)
        except Exception:
            logging.exception("the bundle cannot be used")
        time.sleep(pause)
    logging.critical("every problem gets the default answer")
    return None


def _contest(
    bundle: Path | None,
    overrides: list[str],
    problems: Path,
    out: Path,
    *,
    team: str | None,
    call_limit: float,
    shuffle: int | None,
    fresh: bool,
) -> None:
    from submission.local import GatewayError, Outputs, run_contest
    from submission.problems import load_problems

    setup = resolve(bundle, overrides, team=team)
    loaded = load_problems(problems, setup.settings.rules)
    # A local file tells how many problems will come; an override still has the last word.
    overrides = [f"rules.expected_problems={len(loaded)}", *overrides]
    setup = resolve(bundle, overrides, team=team)
    options = [] if bundle is None else ["--bundle", str(bundle)]
    options += [] if team is None else ["--team", team]
    for override in overrides:
        options += ["--set", override]
    # A terminated contest ends its server and leaves nothing behind, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    try:
        outcome = run_contest(
            setup,
            loaded,
            Outputs.beside(out),
            server_options=options,
            call_seconds=call_limit,
            shuffle=shuffle,
            fresh=fresh,
            console=console,
        )
    except GatewayError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"the run failed, as it would have under the organiser's gateway: {error}\n"
            "answers already given are in the journal; the same command continues from it",
            style="red",
            markup=False,
        )
        sys.exit(1)
    if outcome.failed:
        sys.exit(1)


@app.command()
def solve(
    problem: Annotated[str, typer.Argument(help="The problem's text.")],
    bundle: BundleOption = None,
    num_agents: AgentsOption = None,
    max_attempts: AttemptsOption = None,
    team: TeamOption = None,
    time_limit: Annotated[float, typer.Option("--time-limit", help="Seconds, loading not counted.")] = 600.0,
    output_file: Annotated[
        Path | None, typer.Option("--output-file", help="Write samples and votes as JSON.")
    ] = None,
    setting: SetOption = None,
) -> None:
    """Solve one problem with a bundle, or with the model in MATH_MODEL_PATH."""
    from submission.solve import solve_one

    _positive("--time-limit", time_limit)
    setup = resolve(
        bundle,
        _overrides(setting, solver__num_agents=num_agents, solver__max_attempts=max_attempts),
        team=team,
    )
    solve_one(setup, problem, time_limit=time_limit, output=output_file, console=Console())


if __name__ == "__main__":
    run(app)

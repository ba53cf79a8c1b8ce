"""Command line: `python -m kit.steps --model FOLDER --traces FILE --rollouts 8`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from submission.cli import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True, soft_wrap=True, emoji=False, highlight=False)


def _option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text)


@app.callback(invoke_without_command=True)
def steps(
    context: typer.Context,
    model: Annotated[Path | None, _option("Folder of the checkpoint that rolls out.")] = None,
    traces: Annotated[
        str | None,
        _option("Problems, gold answers, completions: jsonl, json, csv, parquet, folder, hub name."),
    ] = None,
    recipe: Annotated[Path | None, _option("TOML file with any of these settings.")] = None,
    out: Annotated[
        Path | None, _option("Folder of the run; steps.jsonl and card.json are the result.")
    ] = None,
    split: Annotated[str | None, _option("Of a hub name or folder.")] = None,
    limit: Annotated[int | None, _option("Take the first so many rows.")] = None,
    rollouts: Annotated[int | None, _option("Of a prefix at most (8).")] = None,
    threshold: Annotated[
        float | None, _option("Share of right roll-outs that makes a step right (0.125: any of 8).")
    ] = None,
    adaptive: Annotated[
        bool | None,
        _option(
            "Stop when the label of all roll-outs is clear (default), or draw all.", "--adaptive/--fixed"
        ),
    ] = None,
    agreement: Annotated[float | None, _option("Wanted share of labels as of all roll-outs (0.955).")] = None,
    spend: Annotated[
        float | None, _option("Share of all roll-outs that is drawn even where fewer seem to do (0.3).")
    ] = None,
    first_wave: Annotated[int | None, _option("Roll-outs before the first decision (4).")] = None,
    wave: Annotated[int | None, _option("Roll-outs between later decisions (1).")] = None,
    pilot: Annotated[int | None, _option("Prefixes that teach the stopping rule (32).")] = None,
    audit: Annotated[float | None, _option("Share of later prefixes that check it (0.02).")] = None,
    search: Annotated[
        str | None, _option("all: every step; first_error: bisection for the first wrong one.")
    ] = None,
    seed: Annotated[int | None, _option("Same seed, same roll-outs.")] = None,
    temperature: Annotated[float | None, _option("Of sampling.")] = None,
    top_p: Annotated[float | None, _option("Nucleus sampling.")] = None,
    min_p: Annotated[float | None, _option("Least share of the best token's probability.")] = None,
    max_tokens: Annotated[int | None, _option("Tokens of a roll-out at most.")] = None,
    system_prompt: Annotated[str | None, _option("By default the contest's; '' for none.")] = None,
    user_prompt: Annotated[str | None, _option("The user's turn, with {problem} in it.")] = None,
    data_parallel: Annotated[int | None, _option("Engine processes, each with a share.")] = None,
    engine: Annotated[str | None, _option("vllm or transformers.")] = None,
    setting: Annotated[
        list[str] | None, _option("Any setting: `engine.max_num_seqs=128`. Repeatable.", "--set")
    ] = None,
    dry_run: Annotated[bool, _option("Say what would be done.", "--dry-run")] = False,
) -> None:
    """Label every step of traces by roll-outs from the prefix that ends with it (Math-Shepherd, OmegaPRM).

    steps.jsonl: one JSON line a trace: id, problem, answer, steps; labels (1 right, 0 wrong), soft (share of
    right roll-outs), estimates (the same without the bias of stopping early) and rollouts, one a step;
    first_error (-1: none), correct (the trace's answer), source, licence, teacher, model. card.json: counts.

    An interrupted run goes on when the same command is given again. Other --rollouts, --threshold, --search,
    or more traces start from the roll-outs that are there.
    """
    options = dict(locals())
    if context.invoked_subcommand:
        return
    from kit.steps.recipe import StepsRecipe, load_recipe
    from kit.steps.run import dry_run as tell
    from kit.steps.run import run_steps

    given = _given(options, StepsRecipe.model_fields)
    checked = load_recipe(recipe, given, setting or ())
    if dry_run:
        tell(checked, _console)
        return
    _to_the_end(lambda: run_steps(checked, _console))


@app.command()
def consensus(
    judge: Annotated[Path, _option("Folder of the judge's checkpoint.")],
    steps: Annotated[Path, _option("Folder of a finished run, or its steps.jsonl.")],
    out: Annotated[Path | None, _option("Folder of the result: steps.jsonl and card.json.")] = None,
    prompt: Annotated[
        Path | None, _option("TOML file with system and user; default: the shipped one.")
    ] = None,
    max_tokens: Annotated[int | None, _option("Of the judge's completion (8192).")] = None,
    temperature: Annotated[float | None, _option("Of the judge (0).")] = None,
    seed: Annotated[int | None, _option("Same seed, same verdicts.")] = None,
    data_parallel: Annotated[int | None, _option("Engine processes.")] = None,
    engine: Annotated[str | None, _option("vllm or transformers.")] = None,
    setting: Annotated[
        list[str] | None, _option("Any setting: `engine.max_num_seqs=128`. Repeatable.", "--set")
    ] = None,
) -> None:
    """Keep the records where a judge model finds the first error where the roll-outs did (Zhang et al. 2025).

    Verdicts are journalled: an interrupted pass goes on when the same command is given again.
    """
    options = dict(locals())
    from kit.steps.judge import JudgeRecipe, run_consensus
    from kit.traces.drawing import toml_pairs

    given = _given(options, JudgeRecipe.model_fields)
    checked = JudgeRecipe.load(None, [*toml_pairs(given), *(setting or ())])
    _to_the_end(lambda: run_consensus(checked, _console))


def _given(options: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if name in fields and value is not None}
    if "engine" in given:
        given["engine.kind"] = given.pop("engine")
    return given


def _to_the_end(work: Callable[[], object]) -> None:
    from kit.traces.processes import WorkerError

    try:
        work()
    except WorkerError as error:
        text = f"{error}\nfinished roll-outs are kept; the same command goes on"
        _console.print(text, style="red", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    run(app)

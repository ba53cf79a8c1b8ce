"""Command line: `python -m kit.traces --teacher FOLDER --dataset FILE --samples 4`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from submission.cli import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True, soft_wrap=True, emoji=False, highlight=False)


def _option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text)


@app.command()
def traces(
    teacher: Annotated[Path | None, _option("Folder of the teacher's checkpoint.")] = None,
    dataset: Annotated[str | None, _option("File (jsonl, json, csv, parquet), folder or hub name.")] = None,
    recipe: Annotated[Path | None, _option("TOML file with any of these settings.")] = None,
    out: Annotated[Path | None, _option("Folder of the run; its traces.jsonl is the result.")] = None,
    split: Annotated[str | None, _option("Of a hub name or folder.")] = None,
    limit: Annotated[int | None, _option("Take the first so many rows.")] = None,
    samples: Annotated[int | None, _option("Samples a problem (4).")] = None,
    seed: Annotated[int | None, _option("Same seed, same samples.")] = None,
    temperature: Annotated[float | None, _option("Of sampling.")] = None,
    top_p: Annotated[float | None, _option("Nucleus sampling.")] = None,
    min_p: Annotated[float | None, _option("Least share of the best token's probability.")] = None,
    max_tokens: Annotated[int | None, _option("Tokens of a completion at most.")] = None,
    system_prompt: Annotated[str | None, _option("By default the contest's; '' for none.")] = None,
    user_prompt: Annotated[str | None, _option("The user's turn, with {problem} in it.")] = None,
    select: Annotated[str | None, _option("all, shortest or diverse correct traces.")] = None,
    keep: Annotated[int | None, _option("So many a problem (all: every one, shortest 1, diverse 2).")] = None,
    keep_wrong: Annotated[bool | None, _option("Also write wrong ones, marked so.", "--keep-wrong")] = None,
    data_parallel: Annotated[int | None, _option("Engine processes, each with a share.")] = None,
    top_k: Annotated[int | None, _option("Keep the teacher's k likeliest tokens a position.")] = None,
    top_k_temperatures: Annotated[str | None, _option("Where they are exact: 1,2")] = None,
    engine: Annotated[str | None, _option("vllm or transformers.")] = None,
    setting: Annotated[
        list[str] | None, _option("Any setting: `engine.max_num_seqs=128`. Repeatable.", "--set")
    ] = None,
    dry_run: Annotated[bool, _option("Say what would be done.", "--dry-run")] = False,
) -> None:
    """Sample a teacher, keep what is verified as right, and cache its log-probabilities.

    An interrupted run goes on when the same command is given again. More --samples, another choice, or
    another --top-k start from the samples that are there.
    """
    options = locals()
    from kit.traces.processes import WorkerError
    from kit.traces.recipe import TraceRecipe, load_recipe
    from kit.traces.run import dry_run as tell
    from kit.traces.run import run_traces

    fields = TraceRecipe.model_fields
    given = {name: value for name, value in options.items() if name in fields and value is not None}
    if top_k_temperatures is not None:
        given["top_k_temperatures"] = _numbers(top_k_temperatures)
    if engine is not None:
        given["engine"] = {"kind": engine}
    checked = load_recipe(recipe, given, setting or ())
    if dry_run:
        tell(checked, _console)
        return
    try:
        run_traces(checked, _console)
    except WorkerError as error:
        text = f"{error}\nfinished samples are kept; the same command goes on"
        _console.print(text, style="red", markup=False)
        sys.exit(1)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--top-k-temperatures {text!r}: expected numbers with commas, such as 1,2"
        ) from None


if __name__ == "__main__":
    run(app)

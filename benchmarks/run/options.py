"""The options of a run, as typer reads them: their types and what `--help` says of each."""

from pathlib import Path
from typing import Annotated

import typer

Sets = Annotated[str, typer.Option("--set", help="Sets by short name or file, separated by commas.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the run; the same command continues there. Default: below runs/bench."),
]
BundleFolder = Annotated[
    Path | None, typer.Option("--bundle", help="Bundle; without it MATH_MODEL_PATH names the model.")
]
TimeLimit = Annotated[
    str | None,
    typer.Option("--time-limit", help="Of one contest, start-up included: 300m, 5h. Default: its own."),
]
Samples = Annotated[
    int | None, typer.Option(help="In place of contests: so many samples a problem, without a limit.")
]
Repeat = Annotated[int, typer.Option(help="Contests with each set; more may be asked for later.")]
OptimizationName = Annotated[
    str, typer.Option("--optimization", help="accuracy, speed or balanced. Default: as it is.")
]
KeepIntegers = Annotated[
    bool, typer.Option("--keep-integers", help="Leave out problems that no contest can ask.")
]
Draw = Annotated[int | None, typer.Option(help="Play so many problems of each set, drawn with the seed.")]
CatalogueFile = Annotated[
    Path | None, typer.Option("--catalogue", help="TOML of own sets, as benchmarks/run/sets.toml.")
]
Data = Annotated[Path | None, typer.Option(help="Folder of local copies of sets.")]
Training = Annotated[str | None, typer.Option(help="Training data: tells which problems were in it.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--setting", help="Override a setting: solver.temperature=0.7.")
]
TeamOption = Annotated[str | None, typer.Option(help="A shipped team, or a team's file.")]
Seed = Annotated[int, typer.Option(help="Of the order of problems and of sampling.")]
Shuffle = Annotated[
    bool, typer.Option("--shuffle/--in-order", help="Another order of problems in each contest.")
]

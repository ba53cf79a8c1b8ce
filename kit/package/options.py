"""The options of a build, as typer reads them: their types and what `--help` says of each."""

from pathlib import Path
from typing import Annotated

import typer

from kit.package.quantize.schemes import GRAMMAR as SCHEMES
from kit.package.targets import GRAMMAR

Model = Annotated[Path | None, typer.Option(help="Checkpoint folder. Default: the kit's small model.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the bundle; an older bundle is replaced.")]
Profile = Annotated[str, typer.Option(help="Shipped contest profile: aimo2, aimo3, demo.")]
Settings = Annotated[Path | None, typer.Option(help="Contest settings (TOML) in place of a profile.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: solver.num_agents=16. Repeatable.")
]
TeamOption = Annotated[
    str | None, typer.Option(help="A shipped team (solo, tools, mixed, qwen, gpt_oss) or a TOML file.")
]
Prm = Annotated[Path | None, typer.Option(help="Checkpoint folder of a process reward model, to go along.")]
CalibrationFile = Annotated[
    Path | None, typer.Option(help="How to vote: what `python -m kit.calibrate` has written.")
]
TargetName = Annotated[str | None, typer.Option(help=f"{GRAMMAR}. Default: this machine.")]
KaggleUser = Annotated[str | None, typer.Option(help="Your Kaggle user name, for the metadata.")]
WheelCache = Annotated[
    Path,
    typer.Option(help="Where downloaded wheels are kept.", show_default="the repository's build/wheels"),
]
WithWheels = Annotated[
    bool, typer.Option("--wheels/--no-wheels", help="--no-wheels: quick, but cannot be installed.")
]
Quantize = Annotated[
    str, typer.Option(help=f"Quantize the solver: {SCHEMES}. fp8 loses least, w4a16 is smallest.")
]
QuantizePrm = Annotated[str, typer.Option(help="The same for the process reward model.")]
CalibrationTraces = Annotated[
    list[Path] | None,
    typer.Option(help="Reasoning traces (jsonl) to calibrate on and to be judged by. Repeatable."),
]
CalibrationCount = Annotated[int, typer.Option(help="Traces to calibrate on at most.")]
MaxLoss = Annotated[
    float,
    typer.Option(help="Stop above this: growth of the perplexity; of a PRM, change of a step's score."),
]
Adapter = Annotated[Path | None, typer.Option(help="LoRA adapter (PEFT) to merge into a copy of the solver.")]
Draft = Annotated[
    Path | None, typer.Option(help="Draft model of the solver's vocabulary, to go along in draft/.")
]
DryRun = Annotated[bool, typer.Option(help="Check everything, say what would be built, write nothing.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Show why each wheel is there and its size; builds nothing.")
]
LeaveOut = Annotated[
    list[str] | None, typer.Option(help="A wheel that is not taken along though others want it. Repeatable.")
]
ImageName = Annotated[
    str | None,
    typer.Option(help="The machine's image: a shipped one or a TOML file. Default: the contest's."),
]
ContestName = Annotated[
    str | None,
    typer.Option(help="Whose rules are checked: aimo2, aimo3, a TOML file, none. Default: the profile's."),
]
Rules = Annotated[
    list[str] | None,
    typer.Option("--rule", help="Change a rule: released_before=2026-03-15. Repeatable."),
]
IgnoreRule = Annotated[
    list[str] | None,
    typer.Option(help="Build in spite of this rule, and say so in the manifest. Repeatable."),
]
ModelReleased = Annotated[
    str | None, typer.Option(help="Day that the model (or its base) came out: 2025-08-05.")
]
PrmReleased = Annotated[str | None, typer.Option(help="The same of the process reward model.")]
AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Build though files differ from the git revision.")
]
SplitSize = Annotated[
    str | None,
    typer.Option(help="No file larger than this (1.9G): weights in more shards, wheels in parts."),
]
SignKey = Annotated[
    Path | None, typer.Option("--sign", help="Sign the bundle with this SSH key (private key file).")
]

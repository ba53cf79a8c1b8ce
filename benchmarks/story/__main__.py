"""Command line of `python -m benchmarks.story`: the whole story of a pipeline as one page.

    python -m benchmarks.story --out story/index.html --phase Distilled=runs/a --phase GRPO=runs/b \\
        --contest runs/contest --bundle bundles/aimo --stages runs/pipeline/launch/stages.json

Its picture, the first screen alone:

    chromium --headless --no-sandbox --hide-scrollbars --window-size=1280,980 \\
        --force-device-scale-factor=1.5 --screenshot=docs/pipeline.png file://$PWD/story/index.html
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from benchmarks.report.rendering import write_html
from benchmarks.story.bundles import read_bundle
from benchmarks.story.page import page, read_contest
from benchmarks.story.phases import parse_phase, read_phases
from benchmarks.story.stages import chart, read_record
from benchmarks.story.telling import told
from submission.cli import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    phase: Annotated[
        list[str],
        typer.Option(help="LABEL=FOLDER: a phase and its run of samples, in the order of training."),
    ],
    out: Annotated[Path, typer.Option(help="Page to write.")],
    contest: Annotated[Path | None, typer.Option(help="Run of contests (benchmarks.run).")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle (kit.package).")] = None,
    stages: Annotated[Path | None, typer.Option(help="The pipeline's record of its stages, JSON.")] = None,
    note: Annotated[str, typer.Option(help="What a reader has to know of the models and problems.")] = "",
) -> None:
    """Write one page: accuracy after each phase, cost, the bundle, the contest."""
    phases = read_phases([parse_phase(text) for text in phase])
    found = page(
        phases,
        contest=None if contest is None else read_contest(contest),
        bundle=None if bundle is None else read_bundle(bundle),
        chart=None if stages is None else chart(read_record(stages)),
        note=note,
    )
    write_html(out, found)
    console = Console()
    for one in told(phases.gains(), phases.samples):
        console.print(Text(one.text), soft_wrap=True)
    console.print(Text(f"page       {out}"), soft_wrap=True)


if __name__ == "__main__":
    run(app)

"""Make a checkpoint into an offline contest bundle, verify one, or rehearse its install and a contest.

python -m kit.package --model DIR --out bundles/aimo --profile aimo3

python -m kit.package verify bundles/aimo

python -m kit.package rehearse bundles/aimo
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kit.package import options
from kit.package.making import WHEEL_CACHE, Request, explain_wheels, make
from kit.package.proof.signature import check_signature
from kit.package.proof.signature import sign as sign_manifest
from kit.package.quantize.prepare import Wish
from kit.package.quantize.run import MAX_LOSS
from kit.package.show import bytes_bar, console
from submission import bundle
from submission.cli import run

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True, help=__doc__)
def package(
    context: typer.Context,
    model: options.Model = None,
    out: options.Out = None,
    profile: options.Profile = "aimo3",
    settings: options.Settings = None,
    overrides: options.Overrides = None,
    team: options.TeamOption = None,
    prm: options.Prm = None,
    calibration: options.CalibrationFile = None,
    target: options.TargetName = None,
    kaggle_user: options.KaggleUser = None,
    wheel_cache: options.WheelCache = WHEEL_CACHE,
    with_wheels: options.WithWheels = True,
    dry_run: options.DryRun = False,
    quantize: options.Quantize = "none",
    quantize_prm: options.QuantizePrm = "none",
    calibration_traces: options.CalibrationTraces = None,
    calibration_count: options.CalibrationCount = 256,
    max_loss: options.MaxLoss = MAX_LOSS,
    adapter: options.Adapter = None,
    draft: options.Draft = None,
    explain: options.Explain = False,
    leave_out: options.LeaveOut = None,
    image: options.ImageName = None,
    contest: options.ContestName = None,
    rule: options.Rules = None,
    ignore_rule: options.IgnoreRule = None,
    model_released: options.ModelReleased = None,
    prm_released: options.PrmReleased = None,
    allow_dirty: options.AllowDirty = False,
    sign: options.SignKey = None,
    split_size: options.SplitSize = None,
) -> None:
    """Build a bundle (the default command)."""
    if context.invoked_subcommand is not None:
        return
    request = Request(
        model=model,
        out=out,
        profile=profile,
        settings=settings,
        overrides=tuple(overrides or ()),
        team=team,
        prm=prm,
        calibration=calibration,
        target=target,
        kaggle_user=kaggle_user,
        wheel_cache=wheel_cache,
        with_wheels=with_wheels,
        dry_run=dry_run,
        draft=draft,
        wish=Wish(
            quantize=quantize,
            quantize_prm=quantize_prm,
            traces=tuple(calibration_traces or ()),
            calibration_count=calibration_count,
            max_loss=max_loss,
            adapter=adapter,
        ),
        leave_out=tuple(leave_out or ()),
        image=image,
        contest=contest,
        rules=tuple(rule or ()),
        ignored=tuple(ignore_rule or ()),
        model_released=model_released,
        prm_released=prm_released,
        allow_dirty=allow_dirty,
        key=sign,
        split_size=split_size,
    )
    if explain:
        explain_wheels(request)
    else:
        make(request)


@app.command()
def verify(
    folder: options.BundleFolder,
    signer: Annotated[
        str | None, typer.Option(help="Who must have signed it, as named in --allowed-signers.")
    ] = None,
    allowed_signers: Annotated[
        Path | None, typer.Option(help="OpenSSH's file of signers and their public keys.")
    ] = None,
    signature: Annotated[Path | None, typer.Option(help="Default: BUNDLE.sig beside the bundle.")] = None,
    contents: Annotated[
        bool, typer.Option("--contents", help="Also ask whether what it holds belongs in a bundle.")
    ] = False,
) -> None:
    """Compare every file of a bundle with its manifest; exit code 1 when one differs."""
    if (signer is None) != (allowed_signers is None):
        raise ValueError("--signer NAME and --allowed-signers FILE go together")
    manifest = bundle.Bundle.open(folder).manifest
    size = sum(entry.size for entry in manifest.entries)
    with bytes_bar(f"verifying {folder}", size) as progress:
        problems = bundle.verify(folder, progress)
    for problem in problems:
        path = problem.path.encode("utf-8", "backslashreplace").decode("utf-8")
        typer.echo(f"{problem.kind}: {path} {problem.message}", err=True)
    if problems:
        typer.echo(f"{folder}: {len(problems)} problems in {len(manifest.entries)} files", err=True)
        raise typer.Exit(1)
    if contents:
        _show_faults(bundle.Bundle.open(folder))
    typer.echo(
        f"{folder}: {len(manifest.entries)} files, {size:,} bytes, as built; manifest {manifest.digest}"
    )
    if signer is not None and allowed_signers is not None:
        typer.echo(check_signature(folder, allowed_signers, signer, signature))


@app.command("sign")
def sign_bundle(
    folder: options.BundleFolder,
    key: Annotated[Path, typer.Option(help="SSH key: its private file, or a public one of ssh-agent's.")],
) -> None:
    """Sign a bundle's manifest with an SSH key; the signature lies beside the bundle."""
    typer.echo(f"signed: {sign_manifest(folder, key)}")


def _show_faults(opened: bundle.Bundle) -> None:
    """Exit code 1 where the bundle holds what none should, each named."""
    from kit.package.audit import audit

    faults = audit(opened)
    for fault in faults:
        typer.echo(f"not allowed: {fault}", err=True)
    if faults:
        raise typer.Exit(1)


@app.command()
def rehearse(
    folder: options.BundleFolder,
    problem: Annotated[
        list[str] | None, typer.Option(help="A problem to solve. Repeatable. Default: three simple sums.")
    ] = None,
    python: Annotated[
        Path | None, typer.Option(help="The target's Python. Default: the first one found.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds for the contest, the install not counted.")
    ] = 600.0,
) -> None:
    """Install a bundle into an empty environment without a network and play a contest with it."""
    from kit.package.rehearse import DEFAULT_PROBLEMS, rehearse_bundle

    record = rehearse_bundle(
        folder,
        problems=problem or DEFAULT_PROBLEMS,
        python=str(python) if python else None,
        time_limit=time_limit,
        console=console,
    )
    table = Table("step", "seconds", "outcome")
    for step in record.steps:
        table.add_row(step.name, f"{step.seconds:.1f}", Text(step.outcome))
    Console().print(table)
    typer.echo(f"record: {record.path}")


if __name__ == "__main__":
    run(app)

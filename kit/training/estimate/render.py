"""The estimate as tables for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kit.training.estimate.memory import Item
from kit.training.estimate.plan import RESERVE, Estimate, gigabytes

WHEN = {
    "always": "always",
    "pass": "loss, backward",
    "teacher": "teacher's forward",
    "loss": "loss",
    "backward": "backward",
    "step": "optimizer step",
}


def render(made: Estimate) -> RenderableType:
    """Memory by item, work, and what was assumed; every number is marked as an estimate."""
    parts: list[RenderableType] = [_memory(made)]
    if made.memory.cpu:
        parts.append(_cpu(made))
    parts.append(_work(made))
    parts.append(Text("Assumed, not measured:", style="bold"))
    parts += [Text(f"  {sentence}") for sentence in made.assumed]
    parts += [Text(f"warning: {sentence}", style="yellow") for sentence in made.warnings]
    return Group(*parts)


def _memory(made: Estimate) -> Table:
    table = Table(title="Estimated memory of one GPU", title_justify="left", show_footer=True)
    verdict = "fits" if made.fits else "does not fit"
    limit = f"{verdict}: {gigabytes(made.limit)} of {gigabytes(made.gpu_bytes)} after {RESERVE:.0%} reserve"
    worst = WHEN[made.memory.worst_phase]
    table.add_column("item", f"at the worst: {worst}", overflow="fold")
    table.add_column("size", gigabytes(made.memory.gpu_peak), justify="right", no_wrap=True)
    table.add_column("when", Text(verdict, style="green" if made.fits else "red"))
    table.add_column("how", limit, overflow="fold")
    for item in sorted(made.memory.gpu, key=lambda item: -item.bytes):
        table.add_row(*_cells(item, WHEN[item.when]))
    return table


def _cpu(made: Estimate) -> Table:
    table = Table(title="Estimated CPU memory of one node", title_justify="left", show_footer=True)
    table.add_column("item", "together", overflow="fold")
    table.add_column("size", gigabytes(made.memory.cpu_total), justify="right", no_wrap=True)
    table.add_column("how", overflow="fold")
    for item in made.memory.cpu:
        table.add_row(*_cells(item))
    return table


def _cells(item: Item, *between: str) -> tuple[Text | str, ...]:
    return (Text(item.name), gigabytes(item.bytes), *between, Text(item.how))


def _work(made: Estimate) -> Table:
    work = made.work
    table = Table(title="Estimated work", title_justify="left", show_header=False)
    table.add_column("quantity", overflow="fold")
    table.add_column("value", justify="right", overflow="fold")
    name, parameters = made.student
    rows = [(f"student {name}", f"{parameters:,} parameters, {made.trainable:,} trained")]
    if made.teacher:
        name, parameters = made.teacher
        rows.append((f"teacher {name}", f"{parameters:,} parameters"))
    rows += [
        ("optimizer steps", f"{work.steps:,}"),
        ("tokens an epoch", f"{work.epoch_tokens:,.0f}"),
        ("tokens in all", f"{work.tokens:,.0f}"),
        ("training", f"{work.training:.3g} FLOPs"),
    ]
    if work.recomputation:
        rows.append(("gradient checkpointing", f"{work.recomputation:.3g} FLOPs"))
    if work.teacher:
        rows.append(("teacher", f"{work.teacher:.3g} FLOPs"))
    rows.append(("hours at the assumed utilization", f"{work.hours:,.2f}"))
    for quantity, value in rows:
        table.add_row(Text(quantity), Text(value))
    return table

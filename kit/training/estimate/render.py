"""The estimate as tables for the terminal."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kit.training.estimate.memory import Item, Memory
from kit.training.estimate.plan import RESERVE, Estimate, gigabytes, limit_of

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
    return whole(made.memory, made.gpu_bytes, _work_rows(made), made.assumed, made.warnings)


def whole(
    memory: Memory,
    gpu_bytes: int,
    work: Iterable[tuple[str, str]],
    assumed: Iterable[str],
    warnings: Iterable[str],
) -> RenderableType:
    """The page of an estimate, for any phase."""
    parts: list[RenderableType] = [_memory(memory, gpu_bytes)]
    if memory.cpu:
        parts.append(_cpu(memory))
    parts.append(_work(work))
    parts.append(Text("Assumed, not measured:", style="bold"))
    parts += [Text(f"  {sentence}") for sentence in assumed]
    parts += [Text(f"warning: {sentence}", style="yellow") for sentence in warnings]
    return Group(*parts)


def _memory(memory: Memory, gpu_bytes: int) -> Table:
    table = Table(title="Estimated memory of one GPU", title_justify="left", show_footer=True)
    fits = memory.gpu_peak <= limit_of(gpu_bytes)
    verdict = "fits" if fits else "does not fit"
    room = gigabytes(limit_of(gpu_bytes))
    limit = f"{verdict}: {room} of {gigabytes(gpu_bytes)} after {RESERVE:.0%} reserve"
    worst = WHEN[memory.worst_phase]
    table.add_column("item", f"at the worst: {worst}", overflow="fold")
    table.add_column("size", gigabytes(memory.gpu_peak), justify="right", no_wrap=True)
    table.add_column("when", Text(verdict, style="green" if fits else "red"))
    table.add_column("how", limit, overflow="fold")
    for item in sorted(memory.gpu, key=lambda item: -item.bytes):
        table.add_row(*_cells(item, WHEN[item.when]))
    return table


def _cpu(memory: Memory) -> Table:
    table = Table(title="Estimated CPU memory of one node", title_justify="left", show_footer=True)
    table.add_column("item", "together", overflow="fold")
    table.add_column("size", gigabytes(memory.cpu_total), justify="right", no_wrap=True)
    table.add_column("how", overflow="fold")
    for item in memory.cpu:
        table.add_row(*_cells(item))
    return table


def _cells(item: Item, *between: str) -> tuple[Text | str, ...]:
    return (Text(item.name), gigabytes(item.bytes), *between, Text(item.how))


def _work(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title="Estimated work", title_justify="left", show_header=False)
    table.add_column("quantity", overflow="fold")
    table.add_column("value", justify="right", overflow="fold")
    for quantity, value in rows:
        table.add_row(Text(quantity), Text(value))
    return table


def _work_rows(made: Estimate) -> list[tuple[str, str]]:
    work = made.work
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
    return rows

"""A run's figures on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


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

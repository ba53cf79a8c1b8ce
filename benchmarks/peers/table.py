"""The one table: for the terminal and for the page."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

HEADINGS = ("peer", "compared", "ours", "peer's", "ratio", "range", "aim", "results")
LEFT = {"peer", "compared", "results"}


def lines_of(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Cells of every row, in the order of `HEADINGS`.

    Args:
        figures: `peers`: for each peer its `title`, `versions`, `rows` (as `comparisons.Row` has them), and
            the `error` that ended it, else "".
    """
    for peer in figures["peers"].values():
        told = ", ".join(f"{name} {number}" for name, number in peer["versions"].items())
        name = f"{peer['title']} ({told})" if told else peer["title"]
        for row in peer["rows"]:
            yield (
                name,
                row["compared"],
                row["ours"],
                row["peer"],
                f"{row['ratio']:.2f}",
                f"{row['least']:.2f} to {row['most']:.2f}",
                row["aim"] + ("" if row["met"] else " missed"),
                row["same"],
            )


def failures(figures: Mapping[str, Any]) -> list[str]:
    """A line for each peer that could not be measured, or not to the end."""
    return [
        f"{name}: not measured{' to the end' if peer['rows'] else ''}: {peer['error']}"
        for name, peer in figures["peers"].items()
        if peer["error"]
    ]


def terminal_table(figures: Mapping[str, Any]) -> Table:
    """The table for a terminal, of 80 columns too: the peer above its rows, the results below each."""
    table = Table(title="Ours beside its peers; ratio: how many times as fast ours is")
    for heading in HEADINGS[1:-1]:
        table.add_column(heading, justify="left" if heading in LEFT else "right")
    before = ""
    for name, compared, *cells, results in lines_of(figures):
        if name != before:
            table.add_section()
            table.add_row(Text(name, style="bold"))
        table.add_row(Text(compared) + Text(f"\n{results}" if results else "", style="dim"), *cells)
        before = name
    return table


def peers_section(figures: Mapping[str, Any]) -> list[str]:
    """The page's section."""
    lines = [
        "Each peer runs in an environment of its own with pinned versions, in turn with ours, on the same",
        "inputs, seeds and threads; the start of neither counts. Ratio: how many times as fast ours is;",
        "range: that of the turns. An aim on time is given as its inverse (a contest in at most 1.05 times a",
        "script's time: 0.95). Results: in how far the two sides' agree.",
        "",
        "| " + " | ".join(heading.capitalize() for heading in HEADINGS) + " |",
        "|" + "|".join("---" if heading in LEFT else "--:" for heading in HEADINGS) + "|",
    ]
    lines += ["| " + " | ".join(cells) + " |" for cells in lines_of(figures)]
    told = failures(figures)
    # On the page an error's first line is enough.
    return lines + ([""] if told else []) + [f"- {line.splitlines()[0]}" for line in told]

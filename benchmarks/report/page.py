"""The page of one run: what it is worth, what it cost, and what happened at every problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.report.loading import Story, read_environment, read_finished, read_stories
from benchmarks.report.plots import Band, band_plot, can_plot, step_plot
from benchmarks.report.rendering import render, write_html
from benchmarks.run.reading import LoadedRun

PAGE = "report.html"
MOST_CHARS, LEAST_CHARS, ALL_CHARS = 20_000, 300, 8_000_000
"""Of one text at most and at least, and of all together: a browser has to open the page."""
TITLES = {"minutes": "time", "tokens": "tokens"}
CUT = "\n[… {} characters are left out here; samples.parquet has all …]\n"


def write_page(folder: Path, path: Path | None = None) -> Path:
    """Write the page of a finished run, by default into its folder.

    Raises:
        ValueError: the folder holds no finished run, or the page cannot be written.
    """
    run = read_finished(folder)
    target = folder / PAGE if path is None else path
    write_html(target, page(run, read_stories(run), read_environment(folder)))
    return target


def page(run: LoadedRun, stories: Mapping[str, Sequence[Story]], environment: Mapping[str, Any]) -> str:
    """The page of a run's figures and stories."""
    limit = text_limit(stories)
    results = run.results
    return render(
        "run.html",
        folder=run.folder.name,
        results=results,
        environment=environment,
        plots=can_plot(),
        sets=[
            {
                "name": name,
                "figures": results["figures"][name],
                "drawn": drawings(results["figures"][name]),
                "lines": time_lines(results, name),
                "stories": stories[name],
            }
            for name in run.sets
        ],
        faults=list(dict.fromkeys(fault for one in results["contests"] for fault in one["faults"])),
        notes=list(dict.fromkeys(note for one in results["contests"] for note in one["notes"])),
        cut=lambda text: cut(text, limit),
    )


def text_limit(stories: Mapping[str, Sequence[Story]]) -> int:
    """Characters of one text, so that a browser opens the page of them all."""
    return max(LEAST_CHARS, min(MOST_CHARS, ALL_CHARS // max(1, _texts(stories))))


def _texts(stories: Mapping[str, Sequence[Story]]) -> int:
    """Texts of models in all: of samples, of tool calls and their outputs, of opinions."""
    solved = [one for found in stories.values() for story in found for one in story.solved]
    calls = sum(len(sample.calls) for one in solved for sample in one.tries)
    return sum(len(one.tries) + len(one.opinions) for one in solved) + 2 * calls


def drawings(figures: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """(title, SVG) of a set's plots; none without matplotlib."""
    if not can_plot():
        return []
    found = []
    for unit in ("minutes", "tokens"):
        series = {"plain vote": figures["curves"][unit]}
        found.append((f"Accuracy against {TITLES[unit]}", budget_plot(series, unit)))
    if "at_k" in figures:
        rows = figures["at_k"]
        bands = {f"{kind}@k": band_of(rows, kind) for kind in ("pass", "maj", "prm") if kind in rows[0]}
        found.append(("Accuracy at k samples", markup(band_plot(bands, "k samples"))))
    return found


def budget_plot(series: Mapping[str, Sequence[Sequence[float]]], unit: str) -> Markup:
    """Lines of `curves`; minutes are told in seconds where no problem took two."""
    most = max(point[0] for points in series.values() for point in points)
    if unit == "minutes" and most < 2:
        unit = "seconds"
        series = {name: [(60 * budget, share) for budget, share in points] for name, points in series.items()}
    return markup(step_plot(series, f"{unit} of a problem"))


def band_of(rows: Sequence[Mapping[str, Any]], kind: str) -> Band:
    """One line of `at_k`, with its intervals."""
    return Band(
        [row["k"] for row in rows], *([row[kind][side] for row in rows] for side in ("mean", "low", "high"))
    )


def markup(svg: str) -> Markup:
    """A plot for a template, which escapes all else."""
    return Markup(svg)  # noqa: S704 - made by matplotlib from our own labels


@dataclass(frozen=True)
class Block:
    """A problem's stretch of a time line, in percent of the limit."""

    id: str
    right: bool
    left: float
    width: float
    minutes: float


@dataclass(frozen=True)
class TimeLine:
    """One contest: `ready` is the start-up's percent of the limit; seconds otherwise."""

    repeat: int
    limit: float
    elapsed: float
    ready: float
    right: int
    blocks: tuple[Block, ...]


def time_lines(results: Mapping[str, Any], name: str) -> tuple[TimeLine, ...]:
    """The contests with a set, each against its limit; none of samples without a limit."""
    rows = results["figures"][name].get("timeline")
    if rows is None:
        return ()
    contests = sorted((one for one in results["contests"] if one["set"] == name), key=lambda c: c["repeat"])
    return tuple(_time_line(one, mine) for one, mine in zip(contests, rows, strict=True))


def _time_line(contest: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> TimeLine:
    limit = float(contest["time_limit"])

    def share(seconds: float) -> float:
        return round(100 * min(1.0, max(0.0, seconds / limit)), 2)

    return TimeLine(
        repeat=contest["repeat"],
        limit=limit,
        elapsed=contest["elapsed"],
        ready=share(contest["ready"] or 0.0),
        right=sum(row["right"] for row in rows),
        blocks=tuple(
            Block(
                row["id"],
                row["right"],
                share(60 * row["begun"]),
                max(0.25, round(share(60 * row["answered"]) - share(60 * row["begun"]), 2)),
                row["answered"] - row["begun"],
            )
            for row in rows
        ),
    )


def cut(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and the end, where the answer is."""
    if len(text) <= limit:
        return text
    head = limit // 2
    tail = limit - head
    return text[:head] + CUT.format(f"{len(text) - limit:,}") + text[-tail:]

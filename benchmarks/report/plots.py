"""Plots as SVG inside a page: no file beside it, no script, the page's own ink in light and in dark."""

import importlib.util
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from submission.selection.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Stands for the page's text colour, which the browser puts in its place."""
COLOURS = ("#3b6fd4", "#d9822b", "#1d9a6c", "#c4372c", "#8558c9", "#0f8fa8", "#a8790b", "#c2418c")
SIZE = (5.2, 3.1)
"""Inches of 72 pixels."""


def can_plot() -> bool:
    """Whether matplotlib is there: it comes with the extra `train`, and a page does without."""
    return importlib.util.find_spec("matplotlib") is not None


@dataclass(frozen=True)
class Band:
    """A line with its interval at each x."""

    xs: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


def step_plot(series: Mapping[str, Sequence[Sequence[float]]], xlabel: str) -> str:
    """Accuracy (0 to 1) against a budget, as steps.

    Args:
        series: (budget, accuracy) pairs of each line, by its label.
        xlabel: of the budget.
    """

    def draw(axes: "Axes") -> None:
        for (label, points), colour in zip(series.items(), _colours(series), strict=True):
            axes.step(
                [point[0] for point in points],
                [100 * point[1] for point in points],
                where="post",
                label=label,
                color=colour,
                linewidth=2,
            )
        axes.set_xlabel(xlabel)
        axes.set_xlim(left=0)
        _percent(axes)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=INK)

    return _svg(draw)


def band_plot(series: Mapping[str, Band], xlabel: str) -> str:
    """Accuracy (0 to 1) with intervals against a number of samples, on a scale of powers of two."""

    def draw(axes: "Axes") -> None:
        for (label, band), colour in zip(series.items(), _colours(series), strict=True):
            axes.plot(band.xs, [100 * y for y in band.means], "o-", color=colour, label=label, markersize=3.5)
            axes.fill_between(
                band.xs,
                [100 * y for y in band.lows],
                [100 * y for y in band.highs],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        axes.set_xscale("log", base=2)
        ticks = sorted({x for band in series.values() for x in band.xs})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(xlabel)
        _percent(axes)
        axes.legend(frameon=False, labelcolor=INK)

    return _svg(draw)


def interval_plot(rows: Mapping[str, Interval], xlabel: str, zero: bool = False) -> str:
    """One horizontal line a row, from low to high with a dot at the mean, times 100.

    Args:
        rows: by label, drawn from top to bottom.
        xlabel: of the axis.
        zero: rows are differences: 0 is marked, and none has a line's own colour.
    """

    def draw(axes: "Axes") -> None:
        colours = ["#7a8899"] * len(rows) if zero else _colours(rows)
        for place, ((mean, low, high), colour) in enumerate(zip(rows.values(), colours, strict=True)):
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=3, alpha=0.45)
            axes.plot([100 * mean], [place], "o", color=colour, markersize=8)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(xlabel)
        if zero:
            axes.axvline(0, color=INK, linewidth=1, linestyle=":")

    return _svg(draw, height=0.9 + 0.42 * len(rows))


def phase_plot(phases: Sequence[str], series: Mapping[str, Sequence[Interval | None]]) -> str:
    """Accuracy (0 to 1) with its interval after each phase, one line a measure.

    Args:
        phases: names, from left to right; of any text.
        series: a value a phase, None where it was not measured, by the measure's label.
    """

    def draw(axes: "Axes") -> None:
        for number, ((label, found), colour) in enumerate(zip(series.items(), _colours(series), strict=True)):
            # Side by side, so that intervals do not hide each other.
            shift = 0.09 * (number - (len(series) - 1) / 2)
            known = [(place + shift, one) for place, one in enumerate(found) if one is not None]
            xs, means = [x for x, _ in known], [100 * one.mean for _, one in known]
            axes.plot(xs, means, "o-", color=colour, label=label, markersize=6, linewidth=1.8)
            for x, one in known:
                axes.plot([x, x], [100 * one.low, 100 * one.high], color=colour, linewidth=3.5, alpha=0.4)
        axes.set_xticks(range(len(phases)), phases, parse_math=False)
        axes.set_xlim(-0.4, len(phases) - 0.6)
        _percent(axes)
        axes.legend(frameon=False, labelcolor=INK, loc="lower right")

    return _svg(draw)


def _colours(rows: Mapping[str, object]) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(rows))]


def _percent(axes: "Axes") -> None:
    axes.set_ylim(0, 102)
    axes.set_ylabel("right answers, %")


def _svg(draw: Any, height: float = SIZE[1]) -> str:
    """Deterministic SVG. Labels are ours (never model text): matplotlib reads $ in them as mathematics."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.family": "sans-serif",
        "font.size": 10.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.alpha": 0.15,
        "grid.color": INK,
    }
    buffer = io.StringIO()
    with rc_context(settings):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True)
        draw(axes)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Without the XML prologue and the groups' ids, which several plots in one page would share."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    return body.replace(INK, "currentColor").strip()

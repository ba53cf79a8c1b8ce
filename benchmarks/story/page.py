"""The page of the whole story: what a person sees first is what came of it, then what it rests on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.compare.pooling import troubles
from benchmarks.report.loading import Story, read_environment, read_finished, read_stories
from benchmarks.report.page import cut, markup, text_limit, time_lines
from benchmarks.report.plots import can_plot, phase_plot
from benchmarks.report.rendering import render
from benchmarks.run.reading import LoadedRun
from benchmarks.story.bundles import BundleFacts
from benchmarks.story.phases import Phases
from benchmarks.story.stages import Chart
from benchmarks.story.telling import title_of, told


@dataclass(frozen=True)
class Contest:
    """A run of contests and what happened at every problem."""

    run: LoadedRun
    stories: Mapping[str, Sequence[Story]]


def read_contest(folder: Path) -> Contest:
    """Read a finished run of contests.

    Raises:
        ValueError: the folder holds no such run.
    """
    run = read_finished(folder)
    if run.results.get("mode") != "contest":
        raise ValueError(f"{folder} holds samples without a limit: --contest is a run with --time-limit")
    return Contest(run, read_stories(run))


def page(
    phases: Phases,
    *,
    contest: Contest | None = None,
    bundle: BundleFacts | None = None,
    chart: Chart | None = None,
    note: str = "",
) -> str:
    """The page; what is None or empty is not shown."""
    titles = {one: title_of(one, phases.samples) for one in phases.measures}
    return render(
        "story.html",
        phases=phases,
        titles=titles,
        rows=[
            {"label": one.label, "cells": {name: one.accuracy(name) for name in titles}}
            for one in phases.phases
        ],
        told=told(phases.gains(), phases.samples),
        troubles=[
            f"{one.label}: {trouble}" for one in phases.phases for trouble in troubles(one.run, phases.sets)
        ],
        drawn=_drawn(phases, titles.values()),
        plots=can_plot(),
        environment=read_environment((contest.run if contest else phases.phases[-1].run).folder),
        contest=None if contest is None else _contest(contest),
        bundle=bundle,
        chart=chart,
        note=note,
    )


def _drawn(phases: Phases, titles: Iterable[str]) -> Markup | None:
    if not can_plot():
        return None
    series = {
        title: [one.accuracy(measure) for one in phases.phases]
        for measure, title in zip(phases.measures, titles, strict=True)
    }
    return markup(phase_plot([one.label for one in phases.phases], series))


def _contest(contest: Contest) -> dict[str, Any]:
    results = contest.run.results
    limit = text_limit(contest.stories)
    return {
        "results": results,
        "sets": [
            {
                "name": name,
                "figures": results["figures"][name],
                "lines": time_lines(results, name),
                "stories": contest.stories[name],
            }
            for name in contest.run.sets
        ],
        "troubles": troubles(contest.run, tuple(contest.run.sets)),
        "notes": list(dict.fromkeys(note for one in results["contests"] for note in one["notes"])),
        "cut": lambda text: cut(text, limit),
    }

"""The page of a comparison: the verdict first, then what it rests on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.compare.deciding import Decision, decide, sentences
from benchmarks.compare.pooling import Entry, Pooled
from benchmarks.report.page import TITLES, band_of, budget_plot, markup
from benchmarks.report.plots import band_plot, can_plot, interval_plot
from benchmarks.report.rendering import render, write_html

DIFFERING = ("optimization", "settings", "team", "seed", "shuffle", "repeat")


@dataclass(frozen=True)
class Verdict:
    """A comparison as it is told: the statistics and their sentences."""

    pooled: Pooled
    decision: Decision
    told: tuple[str, ...]


def judge(pooled: Pooled, *, seed: int = 0) -> Verdict:
    """Decide over all compared problems alike."""
    decision = decide({one.letter: one.right for one in pooled.entries}, seed=seed)
    minutes = {one.letter: one.minutes for one in pooled.entries}
    return Verdict(pooled, decision, tuple(sentences(decision, len(pooled.problems), minutes)))


def write_comparison(verdict: Verdict, path: Path) -> None:
    """Write the page.

    Raises:
        ValueError: it cannot be written.
    """
    pooled, decision = verdict.pooled, verdict.decision
    page = render(
        "compare.html",
        told=verdict.told,
        decision=decision,
        entries={one.letter: one for one in pooled.entries},
        differing=differing(pooled),
        pooled=pooled,
        results=pooled.entries[0].run.results,
        plots=can_plot(),
        overview=_overview(decision),
        sets=[
            {
                "name": name,
                "drawn": _drawings(pooled, name),
                "figures": {one.letter: one.run.results["figures"][name] for one in pooled.entries},
            }
            for name in pooled.sets
        ],
        rows=list(_rows(pooled)),
    )
    write_html(path, page)


def differing(pooled: Pooled) -> dict[str, str]:
    """What is told of each run, by its letter: the settings in which the runs differ."""
    keys = [key for key in DIFFERING if len({repr(one.run.results.get(key)) for one in pooled.entries}) > 1]
    settings = [set(one.run.results["settings"]) for one in pooled.entries]
    shared = settings[0].intersection(*settings[1:])
    return {one.letter: _spelled(one, keys, shared) for one in pooled.entries}


def _spelled(entry: Entry, keys: list[str], shared: set[str]) -> str:
    results: Mapping[str, Any] = entry.run.results
    parts = [f"{results['bundle']} ({results['bundle_digest'][:8]})"]
    for key in keys:
        value = results.get(key)
        if key == "settings":
            parts += [one for one in value or () if one not in shared]
        else:
            parts.append(f"{key} {value if value not in ('', None) else 'as it is'}")
    return "; ".join(parts)


def _overview(decision: Decision) -> list[tuple[str, Markup]]:
    if not can_plot():
        return []
    accuracies = {name: decision.standings[name].accuracy for name in decision.standings}
    pairs = {f"{one.better} - {one.worse}": one.difference for one in decision.pairs}
    return [
        ("Right answers with 95 % intervals", markup(interval_plot(accuracies, "right answers, %"))),
        (
            f"Paired differences with {100 * decision.level:.1f} % intervals",
            markup(interval_plot(pairs, "points", zero=True)),
        ),
    ]


def _drawings(pooled: Pooled, name: str) -> list[tuple[str, Markup]]:
    if not can_plot():
        return []
    figures = {one.letter: one.run.results["figures"][name] for one in pooled.entries}
    found = []
    for unit in ("minutes", "tokens"):
        series = {letter: one["curves"][unit] for letter, one in figures.items()}
        found.append((f"Accuracy against {TITLES[unit]} (plain vote)", budget_plot(series, unit)))
    for kind in ("pass", "maj", "prm"):
        bands = {
            letter: band_of(one["at_k"], kind)
            for letter, one in figures.items()
            if kind in one.get("at_k", [{}])[0]
        }
        if bands:
            found.append((f"{kind}@k", markup(band_plot(bands, "k samples"))))
    return found


def _rows(pooled: Pooled) -> Iterator[dict[str, Any]]:
    """Right answers of each run at each problem; those on which the runs differ most come first."""
    shares = [one.right.mean(axis=0) for one in pooled.entries]
    order = sorted(
        range(len(pooled.problems)), key=lambda n: -(max(s[n] for s in shares) - min(s[n] for s in shares))
    )
    for number in order:
        name, identifier = pooled.problems[number]
        cells = [(int(one.right[:, number].sum()), one.right.shape[0]) for one in pooled.entries]
        yield {"set": name, "id": identifier, "cells": cells}

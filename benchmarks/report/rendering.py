"""Templates to pages. Text of models and problems is escaped; a page runs no script and loads nothing."""

from pathlib import Path
from typing import Any

from benchmarks.run.durations import spell_duration
from submission.files import write_text
from submission.reporting.report import TEMPLATES as CONTEST_TEMPLATES

TEMPLATES = Path(__file__).parent / "templates"
CONTEST = "contest"
"""Prefix of the templates of the contest's own report, whose style the pages here build on."""


def render(template: str, **values: Any) -> str:
    """A page of a template in this package.

    Plots are passed as `markupsafe.Markup`; all else is escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.FileSystemLoader(TEMPLATES),
                jinja2.PrefixLoader({CONTEST: jinja2.FileSystemLoader(CONTEST_TEMPLATES)}),
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "duration": spell_duration,
        "points": points,
        "bytes": spell_bytes,
    }
    return environment.get_template(template).render(**values)


def write_html(path: Path, page: str) -> None:
    """Write a page atomically; a lone surrogate in a model's text is no reason to lose it.

    Raises:
        ValueError: it cannot be written.
    """
    try:
        write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None


def percent(value: float | None) -> str:
    """A share in percent with one digit; a dash for what is not known."""
    return "-" if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}"


def spell_bytes(size: int) -> str:
    """Three digits or so, in powers of 1000: "880 kB", "1.42 GB"."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.3g} {unit}"

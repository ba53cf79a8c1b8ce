"""Templates to pages. Text of models and problems is escaped; a page runs no script and loads nothing."""

from pathlib import Path
from typing import Any

from benchmarks.run.durations import spell_duration
from submission.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A page of a template in this package.

    Plots are passed as `markupsafe.Markup`; all else is escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": spell_duration, "points": points}
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

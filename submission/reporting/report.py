"""The contest's report: one self-contained HTML page that needs no network.

Everything that came from a model or a problem file is escaped by jinja2's autoescaping.
"""

from pathlib import Path

from submission.files import write_text
from submission.reporting.insight import insight
from submission.reporting.results import ContestResults, Result
from submission.settings import ContestSettings

TEMPLATES = Path(__file__).parent / "templates"
# Longer texts are cut in the page; the journal keeps them whole.
SHOWN_CHARS = 20_000


def write_report(path: Path, outcome: ContestResults, settings: ContestSettings) -> None:
    """Render `outcome` to `path` atomically."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        outcome=outcome,
        settings=settings,
        rows=[_row(result, outcome) for result in outcome.results],
        start_percent=_percent(outcome.ready or 0.0, outcome),
        rate=_rate(outcome),
        insight=insight(outcome),
        shown=SHOWN_CHARS,
    )
    # A lone surrogate in a model's text is no reason to lose the page.
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def _percent(seconds: float, outcome: ContestResults) -> float:
    return round(100 * min(1.0, max(0.0, seconds / outcome.time_limit)), 2)


def _rate(outcome: ContestResults) -> float | None:
    """Completion tokens a second of solving; None where nothing was measured."""
    solving = sum(result.seconds for result in outcome.results) - (outcome.ready or 0.0)
    return outcome.tokens / solving if outcome.tokens and solving > 0 else None


def _row(result: Result, outcome: ContestResults) -> dict[str, object]:
    votes = sum(count for _, count in result.votes)
    state = "none" if result.right is None else "right" if result.right else "wrong"
    begun = max(result.started, outcome.ready or 0.0)
    return {
        "result": result,
        "state": state,
        "left": _percent(begun, outcome),
        "width": max(0.3, _percent(result.started + result.seconds - begun, outcome)),
        "votes": [
            {"answer": answer, "count": count, "percent": round(100 * count / votes)}
            for answer, count in result.votes[:8]
        ],
    }

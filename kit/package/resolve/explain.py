"""Why each wheel is there, and what it weighs, as a table."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from kit.package.resolve.lock import ASKED, Lock
from submission.checkpoint import LeftOut


def explain(lock: Lock, left_out: Iterable[LeftOut] = ()) -> Table:
    """A row a wheel, largest first: MB, name, version, and the shortest way that it is wanted by.

    A package that several others want shows one way and how many others there are.
    """
    reasons = {note.path.removeprefix("wheels/"): note.reason for note in left_out}
    table = Table("MB", "wheel", "version", "because of", title=_title(lock))
    table.columns[0].justify = "right"
    for pin in sorted(lock.pins, key=lambda pin: (-(pin.size or 0), pin.name)):
        size = "?" if pin.size is None else f"{pin.size / 1e6:,.1f}"
        why = because(lock, pin.name)
        if pin.name in reasons:
            why = f"{why}; LEFT OUT: {reasons[pin.name]}"
        table.add_row(size, Text(pin.name), Text(pin.version), Text(why))
    return table


def _title(lock: Lock) -> str:
    known = [pin.size for pin in lock.pins if pin.size is not None]
    unknown = len(lock.pins) - len(known)
    more = f", {unknown} of unknown size" if unknown else ""
    return f"{lock.target}: {len(lock.pins)} wheels, {sum(known) / 1e6:,.0f} MB{more}"


def because(lock: Lock, name: str) -> str:
    """`vllm > flashinfer-python (and 2 more)`, or that the project itself asks for it."""
    wanted_by = lock.by_name[name].wanted_by
    path = lock.path(name)
    others = len(wanted_by) - 1
    more = f" (and {others} more)" if others > 0 else ""
    if ASKED in wanted_by:
        return f"the project asks for it{more}"
    if len(path) < 2:
        return "not known: nothing that was resolved names it"
    return " > ".join(path[:-1]) + more

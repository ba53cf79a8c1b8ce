"""Wheels that install offline and yet compile or download something when they are first used.

What is known of which package, and from where, stands in `known.toml` beside this file.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from packaging.version import Version

from kit.package.breach import Breach, Findings
from kit.package.resolve.lock import Pin
from submission.recipes import Recipe

TABLE = Path(__file__).with_name("known.toml")
RULE = "starts-offline"


class Known(Recipe):
    """What one package does at its start; the fields are told at the top of `known.toml`."""

    does: str
    severity: Literal["refuse", "note"]
    companions: tuple[str, ...] = ()
    fix: str
    source: str


def known(path: Path = TABLE) -> Mapping[str, Known]:
    """The table by canonical name of the package."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Known.parse(values, f"{path}, [{name}]") for name, values in table.items()}


def companions(pins: Sequence[Pin], table: Mapping[str, Known]) -> list[str]:
    """Requirements on the companions that the chosen wheels lack, each at its package's version."""
    present = {pin.name for pin in pins}
    return [
        f"{companion}=={Version(pin.version).public}"
        for pin in pins
        for companion in (table[pin.name].companions if pin.name in table else ())
        if companion not in present
    ]


def check_start(pins: Sequence[Pin], table: Mapping[str, Known]) -> Findings:
    """What the chosen wheels would do at start that an offline machine cannot or hardly can."""
    by_name = {pin.name: pin for pin in pins}
    breaches, notes = [], []
    for pin in pins:
        about = table.get(pin.name)
        if about is None:
            continue
        faults = [_fault(pin, companion, by_name.get(companion)) for companion in about.companions]
        missing = [fault for fault in faults if fault]
        if about.companions and not missing:
            continue
        found = f"{pin.name} {pin.version} {about.does}"
        if missing:
            found = f"{found}, and {', '.join(missing)}"
        if about.severity == "refuse":
            wanted = "a contest has no network, and its image may lack the compiler"
            breaches.append(Breach(f"{RULE}:{pin.name}", found, wanted, f"{about.fix} [{about.source}]"))
        else:
            notes.append(f"{found}. {about.fix} [{about.source}]")
    return Findings(breaches, notes)


def _fault(pin: Pin, companion: str, found: Pin | None) -> str | None:
    wanted = Version(pin.version).public
    if found is None:
        return f"{companion}=={wanted} is not among the wheels"
    if Version(found.version).public != wanted:
        return f"{companion} is {found.version}, and its import fails unless it is {wanted}"
    return None

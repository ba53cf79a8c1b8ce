"""All that is judged before a build: wheels that would not start offline, the image, the contest's rules."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kit.package.breach import Findings
from kit.package.contents import Plan
from kit.package.proof.contest import Contest, load_contest, shipped
from kit.package.proof.provenance import Provenance
from kit.package.proof.rules import Candidate, enforce, judge
from kit.package.resolve.image import check_image, load_image
from kit.package.resolve.lock import Pin
from kit.package.resolve.starting import check_start, known
from kit.package.targets import Target
from submission.checkpoint import Checkpoint
from submission.settings import ContestSettings

NONE = "none"


def wanted_contest(name: str | None, settings: ContestSettings, rules: Sequence[str]) -> Contest | None:
    """The contest whose rules are checked: the named one, or the one of the settings' name; None for `none`.

    Args:
        rules: `KEY=VALUE` in place of what its file says.

    Raises:
        ValueError: there is no such contest, or rules without one.
    """
    chosen = name or (settings.rules.name if settings.rules.name in shipped() else NONE)
    if chosen == NONE:
        if rules:
            raise ValueError(f"--rule {rules[0]}: no contest is checked; name one with --contest")
        return None
    return load_contest(chosen, rules)


def check_wheels(pins: Sequence[Pin], target: Target, image: str | None) -> Findings:
    """What is wrong with the chosen wheels on an offline machine, and on the named image."""
    found = check_start(pins, known())
    return found + check_image(pins, target, load_image(image)) if image and image != NONE else found


def judged(
    contest: Contest | None,
    settings: ContestSettings,
    target: Target,
    planned: Plan | None,
    pins: Sequence[Pin],
    models: Mapping[str, tuple[Checkpoint, Provenance]],
    *,
    image: str | None,
    for_contest: bool,
    ignored: Sequence[str],
    limit: int | None = None,
) -> dict[str, Any]:
    """Refuse what breaks a rule; returns what the manifest says of the rules.

    Args:
        planned: the bundle without its wheels, which need not be downloaded yet: `pins` has their sizes.
            None: sizes are not known yet and not judged.
        models: by their folder in the bundle.
        image: its name or file; by default the contest's, where the target was named (`for_contest`).
        ignored: rules that may be broken.
        limit: bytes that a file is cut to.

    Raises:
        ValueError: naming every breach at once.
    """
    if image is None and for_contest and contest is not None:
        image = contest.image or None
    found = check_wheels(pins, target, image) if pins else Findings()
    if contest is not None:
        sizes = {item.path: item.size for item in planned.items} if planned else {}
        if planned:
            sizes |= {f"wheels/{pin.file}": pin.size or 0 for pin in pins}
        found += judge(contest, Candidate(settings, target, sizes, models, for_contest, limit))
    broken = {breach.rule for breach in found.breaches}
    # What is not judged yet may be ignored all the same.
    named = ignored if planned else [name for name in ignored if name in broken]
    return enforce(found, named, contest.name if contest else NONE)


def notes_of(record: Mapping[str, Any]) -> Iterable[str]:
    """What a person should read of the record: rules that were ignored, and what was not judged."""
    for breach in record["ignored"]:
        yield f"rule {breach['rule']} is ignored: {breach['found']}; {breach['wanted']}"
    yield from record["notes"]

"""Where a model comes from: its card, the training runs that made it, and the data that they were fed.

`kit.train` exports a model to `OUT/model`, beside `OUT/checkpoints`, whose manifests hold the run's identity,
its whole recipe and the code's revision; a cleaned set (`kit.data`) has its `card.json` beside it. It is read
where it lies and is left out where it does not. What a run was started from is followed in the same way.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from kit.training.card import README, front_matter
from kit.training.checkpoint_files import Damaged, Manifest, read_manifest, step_folder, steps_in

MAX_RUNS = 16
"""Of a chain of runs, each started from the one before."""
CHECKPOINTS = "checkpoints"
CARD = "card.json"
ORIGIN = "origin.json"
MAX_CARD_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of one model.

    Args:
        card: lines of the front matter of its README.md.
        released: day that it (or what it was trained from) came out, YYYY-MM-DD; None if nothing tells.
        runs: of `kit.train`, the latest first.
        origin: of the kit's default model: the wheel that it was converted from.
    """

    card: Mapping[str, str] = field(default_factory=dict)
    released: str | None = None
    runs: tuple[Mapping[str, Any], ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_licences(self) -> dict[str, int]:
        """Records by licence over all runs; the empty name stands for records that state none."""
        found: dict[str, int] = {}
        for run in self.runs:
            for name, count in run["data"].get("licences", {}).items():
                found[name] = found.get(name, 0) + count
        return dict(sorted(found.items()))

    @property
    def data_unknown(self) -> list[str]:
        """Data sets of runs that have no card."""
        return sorted({run["data"]["path"] for run in self.runs if "licences" not in run["data"]})

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "card": dict(self.card),
            "runs": [dict(run) for run in self.runs],
            "origin": dict(self.origin),
            "data_licences": self.data_licences,
        }


def provenance(folder: Path, released: str | None = None) -> Provenance:
    """Read what is known of the model in `folder`.

    Args:
        released: the day as the user gives it; else the card's, or that of the first model of the chain.

    Raises:
        ValueError: a day is none, or a file of the kit's own cannot be read.
    """
    card = front_matter(folder / README)
    runs: list[Mapping[str, Any]] = []
    current, base = folder.resolve(), dict(card)
    while len(runs) < MAX_RUNS:
        manifest = _last_checkpoint(current.parent / CHECKPOINTS)
        if manifest is None:
            break
        runs.append(_run(manifest))
        before = Path(str(manifest.identity.get("model.path", ""))).expanduser()
        if not before.is_dir() or before.resolve() == current:
            break
        current = before.resolve()
        base = front_matter(current / README)
    day = released or _day_of(card) or _day_of(base)
    return Provenance(card, check_day(day, folder), tuple(runs), _origin(current))


def check_day(text: str | None, place: object) -> str | None:
    """A day as YYYY-MM-DD, or None for None (ValueError for anything else)."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"{place}: release date {text!r} is not a day like 2025-08-05") from None


def _day_of(card: Mapping[str, str]) -> str | None:
    return card.get("released") or card.get("release_date")


def _last_checkpoint(folder: Path) -> Manifest | None:
    for step in reversed(steps_in(folder)):
        try:
            return read_manifest(step_folder(folder, step))
        except Damaged:
            continue
    return None


def _run(manifest: Manifest) -> dict[str, Any]:
    identity = json.dumps(manifest.identity, sort_keys=True)
    state = manifest.state
    return {
        "id": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "phase": manifest.identity.get("phase", ""),
        "step": manifest.step,
        "revision": state.get("revision", ""),
        "recipe": shortened(state.get("recipe", {})),
        "data": _data(Path(str(manifest.identity.get("data.path", "")))),
    }


def _data(path: Path) -> dict[str, Any]:
    """The set's name, and from its card its digest, sources and licences."""
    about: dict[str, Any] = {"path": shortened(str(path))}
    card = path.expanduser().parent / CARD
    if not path.expanduser().is_file() or not card.is_file() or card.stat().st_size > MAX_CARD_BYTES:
        return about
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        if "licences" not in content:
            return about
        about["licences"] = {str(name): int(count) for name, count in content["licences"].items()}
        if "sources" not in content:
            return about  # of kit.steps, whose card counts labels
        about["sha256"] = str(content["sha256"])
        about["sources"] = [
            {"name": source["name"], "set": shortened(source["path"]), "licences": source["licences"]}
            for source in content["sources"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{card} is not a data card of kit.data ({error!r}); make the set again") from None
    return about


def _origin(folder: Path) -> dict[str, str]:
    """What `kit.models` notes beside the model that it converts."""
    path = folder / ORIGIN
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    keys = ("wheel", "wheel_sha256")
    return {key: str(content[key]) for key in keys if isinstance(content, dict) and key in content}


def shortened(value: Any) -> Any:
    """The same settings with absolute paths cut to their last two parts: where a machine keeps its files and
    whose they are is nobody's business."""
    if isinstance(value, Mapping):
        return {key: shortened(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return "/".join(Path(value).parts[-2:]).removeprefix("//")
    return value

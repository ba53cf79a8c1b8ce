"""A model's card (README.md) and licence files: read, and carried over to what is made of the model.

What a licence demands and when the weights came out holds for a fine-tuned model too; contests ask for both.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from submission.checkpoint import LICENSE_NAMES

README = "README.md"
KEYS = ("base_model", "license", "license_name", "license_link", "released", "release_date")
"""Of the front matter: what tells licence, origin and release."""
_CARRIED = KEYS[1:]
_LINE = re.compile(r"(?P<key>[a-z_]+):\s*[\"']?(?P<value>[\w./:+ -]{1,200}?)[\"']?\s*")
_MAX_LICENCE_BYTES = 1 << 20


def front_matter(path: Path) -> dict[str, str]:
    """The single-line values of `KEYS` in a card's front matter; none where there is no card."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        lines = file.read(64 << 10).decode("utf-8", "replace").splitlines()
    found: dict[str, str] = {}
    if not lines or lines[0].strip() != "---":
        return found
    for line in lines[1:]:
        if line.strip() == "---":
            break
        match = _LINE.fullmatch(line)
        if match and match["key"] in KEYS:
            found[match["key"]] = match["value"]
    return found


def carried_card(base: Path, phase: str) -> Mapping[str, str]:
    """Texts, by file name, that go beside a model that `phase` made of the one in `base`.

    The card names the base and repeats what its own says of licence and release; a licence that is not
    stated stays unstated. Licence files come along where they are text.
    """
    known = front_matter(base / README)
    name = known.get("base_model") or base.resolve().name
    lines = [
        "---",
        f"base_model: {name}",
        *(f"{key}: {known[key]}" for key in _CARRIED if key in known),
        "---",
    ]
    texts = {README: "\n".join([*lines, "", f"Made of {name} by `kit.train {phase}`.", ""])}
    for path in sorted(base.iterdir()):
        if not LICENSE_NAMES.fullmatch(path.name) or not path.is_file():
            continue
        if path.stat().st_size > _MAX_LICENCE_BYTES:
            continue
        try:
            texts[path.name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts

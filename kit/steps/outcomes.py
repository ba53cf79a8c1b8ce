"""Outcomes of roll-outs, read from the journals of all workers as they grow.

A roll-out is a sample of `kit.traces.journal`: `problem` is its prefix's key, `attempt` its number, and its
text is left out. One line a roll-out, not a wave, so that a kill in the middle of a wave repeats none of it.
Memory: some 100 bytes a roll-out.
"""

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from kit.traces.journal import parse_line


def prefix_key(trace: str, answer: str, prefix: str) -> str:
    """Twelve characters (72 bits) of all that a prefix's outcomes depend on within a run."""
    whole = json.dumps([trace, answer, prefix]).encode("ascii")
    return base64.urlsafe_b64encode(hashlib.sha256(whole).digest()[:9]).decode("ascii")


class Outcomes:
    """What the journals in a folder hold; `update` reads what they gained since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._found: defaultdict[str, dict[int, bool]] = defaultdict(dict)
        self.rollouts = 0
        self.repeated = 0
        """Lines for a roll-out that stood already; the first one counts."""
        self.correct = 0
        self.tokens = 0
        self.cut = 0
        """Stopped by the token limit."""
        self.damaged = 0
        """Lines that are cut off or no roll-outs."""

    def update(self) -> None:
        """Read on, but for a last line that has no end yet. ValueError where a journal cannot be read."""
        for path in sorted(self._folder.glob("journal-*.jsonl")):
            try:
                self._read(path)
            except OSError as error:
                raise ValueError(f"journal {path} cannot be read: {error.strerror}") from None

    def _read(self, path: Path) -> None:
        offset = self._offsets.get(path, 0)
        with path.open("rb") as file:
            file.seek(offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                offset += len(raw)
                line = parse_line(raw)
                if line is None:
                    self.damaged += bool(raw.strip())
                else:
                    self.add(line.problem, line.attempt, line.correct, len(line.ids), line.finish == "length")
        self._offsets[path] = offset

    def add(self, key: str, number: int, right: bool, tokens: int = 0, cut: bool = False) -> None:
        """Enter one roll-out."""
        held = self._found[key]
        if number in held:
            self.repeated += 1
            return
        held[number] = right
        self.rollouts += 1
        self.correct += right
        self.tokens += tokens
        self.cut += cut

    @property
    def prefixes(self) -> int:
        """Prefixes with at least one roll-out."""
        return len(self._found)

    def of(self, key: str) -> Mapping[int, bool]:
        """Outcomes of one prefix by roll-out number."""
        return self._found.get(key, {})

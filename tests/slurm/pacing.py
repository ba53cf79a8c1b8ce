"""A reward that takes as long as the file `pace` in the current folder says, so that a run is slow."""

import time
from pathlib import Path
from typing import Any

from tests.kit.grpo import rewarding


def letters(sample: dict[str, Any]) -> float:
    """As the other of this name."""
    pace = Path("pace")
    if pace.exists():
        time.sleep(float(pace.read_text() or 0))
    return rewarding.letters(sample)

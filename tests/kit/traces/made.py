"""A random teacher that sometimes answers: its vocabulary holds whole boxes, so a sample may be right."""

import json
from pathlib import Path

from tests.tiny import make_tiny_checkpoint

BOXES = [f"\\boxed{{{'0' * zeros}{digit}}}" for zeros in range(10) for digit in range(2)]


def make_teacher(folder: Path, **options: object) -> Path:
    """About two thirds of its samples of up to 300 tokens end, nearly all of them with a box: 0 or 1."""
    return make_tiny_checkpoint(folder, vocab_texts=BOXES, max_positions=1024, **options)  # type: ignore[arg-type]


def make_dataset(path: Path, count: int = 6) -> Path:
    """Problems whose answer is 0 or 1."""
    rows = [{"problem": f"What is {n} modulo 2?", "answer": str(n % 2), "level": "1"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def journal_lines(out: Path) -> int:
    """Lines in all journals of a run."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("journal-*.jsonl"))

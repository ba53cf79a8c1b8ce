"""From finished samples to a trace file: verified ones chosen problem by problem, and what became of all."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kit.data.records import Record
from kit.data.tasks import Task
from kit.traces.journal import Entry, SampleIndex, load
from kit.traces.recipe import TraceRecipe, teacher_name
from kit.traces.selection import Candidate, choose
from submission.files import write_text


@dataclass
class Counts:
    """What became of a run's samples."""

    problems: int = 0
    refused: int = 0
    """Rows of the set that were left out at loading."""
    solved: int = 0
    """Problems with at least one correct sample."""
    samples: int = 0
    correct: int = 0
    wrong: int = 0
    unparseable: int = 0
    """Finished without an answer that could be found."""
    cut: int = 0
    """Stopped by the token limit."""
    traces: int = 0
    tokens: int = 0
    """Of the traces' completions."""

    def add(self, entries: dict[int, Entry]) -> None:
        """Count one problem's samples."""
        self.problems += 1
        self.samples += len(entries)
        right = sum(entry.correct for entry in entries.values())
        self.correct += right
        self.solved += right > 0
        for entry in entries.values():
            if entry.finish == "length":
                self.cut += 1
            elif not entry.answered:
                self.unparseable += not entry.correct
            else:
                self.wrong += not entry.correct


def assemble(tasks: list[Task], index: SampleIndex, recipe: TraceRecipe, counts: Counts) -> Iterator[Record]:
    """The chosen traces, in the set's order. Memory: the samples of one problem."""
    for task in tasks:
        entries = index.of(task.record.problem_id, recipe.samples)
        counts.add(entries)
        for record in _traces(task, entries, recipe):
            counts.traces += 1
            counts.tokens += len(record.completion_ids)
            yield record


def _traces(task: Task, entries: dict[int, Entry], recipe: TraceRecipe) -> Iterator[Record]:
    if not entries:
        return
    # A bare answer has no box to extract from, so `correct` alone decides.
    right = {attempt: load(entry) for attempt, entry in entries.items() if entry.correct}
    candidates = [Candidate(attempt, tuple(line.ids)) for attempt, line in right.items()]
    chosen = [candidate.attempt for candidate in choose(candidates, recipe.select, recipe.kept)]
    wrong = [attempt for attempt in entries if attempt not in right] if recipe.keep_wrong else []
    prompt = tuple(task.prompt)
    for attempt in [*chosen, *wrong]:
        line = right.get(attempt) or load(entries[attempt])
        yield task.record.model_copy(
            update={
                "system": recipe.system_prompt,
                "completion": line.text,
                "pass_rate": len(right) / len(entries),
                "correct": line.correct,
                "teacher": teacher_name(recipe.teacher),
                "attempt": attempt,
                "logprob": line.logprob,
                "prompt_ids": prompt,
                "completion_ids": tuple(line.ids),
                "topk": None,
            }
        )


def write_summary(path: Path, counts: Counts, refused: dict[str, int]) -> None:
    """Counts and reasons as JSON, atomically."""
    write_text(path, json.dumps({**asdict(counts), "refused_rows": refused}, indent=1) + "\n")


def print_summary(counts: Counts, console: Console) -> None:
    """The counts as a table."""
    table = Table(show_header=False, title="traces")
    shown = {
        "problems": f"{counts.problems} ({counts.refused} rows left out)",
        "solved at least once": counts.solved,
        "samples": counts.samples,
        "correct": counts.correct,
        "wrong": counts.wrong,
        "no answer found": counts.unparseable,
        "cut by the token limit": counts.cut,
        "traces written": f"{counts.traces} ({counts.tokens:,} tokens)",
    }
    for name, value in shown.items():
        table.add_row(name, str(value))
    console.print(table)

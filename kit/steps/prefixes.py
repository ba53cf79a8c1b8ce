"""Traces cut into steps, and their prefixes as token ids that extend each other.

A prefix runs to the beginning of the next step, blank lines included. Each piece between two beginnings is
tokenized by itself, so that the ids of a prefix begin with those of every shorter one and the engine finds
them in its prefix cache: a trace of n tokens is read about once, whatever the number of its steps.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.data.records import Record
from kit.data.refused import Refused
from kit.data.tasks import Asking, Task, make_tasks
from kit.steps.outcomes import prefix_key
from kit.steps.rounds import Outline
from submission.answers import check, parse_gold
from submission.engines.tokenizer import ChatTokenizer
from submission.files import atomic_writer
from submission.solving.drawing import LEAST_COMPLETION
from submission.steps import END_THINK, split_steps, write_up

if TYPE_CHECKING:
    from submission.parsing.symbolic import SymbolicChecker


@dataclass(frozen=True)
class Trace:
    """One trace to label.

    Args:
        record: the problem, its gold answer, and the completion.
        steps: as `submission.steps` cuts it.
        pieces: texts of which the prefixes are made, one a step; together the completion.
        prompt: token ids of the rendered chat.
        ids: token ids of each piece.
        own: whether its own answer is right.
    """

    record: Record
    steps: tuple[str, ...]
    pieces: tuple[str, ...]
    prompt: "array[int]"
    ids: tuple["array[int]", ...]
    own: bool

    @property
    def outline(self) -> Outline:
        """What decisions need to know."""
        keys = tuple(
            prefix_key(self.record.id, self.record.answer, "".join(self.pieces[: step + 1]))
            for step in range(len(self.steps) - 1)
        )
        return Outline(keys, self.own)

    def prefix(self, step: int) -> list[int]:
        """Token ids of the chat up to the end of a step."""
        found = list(self.prompt)
        for piece in self.ids[: step + 1]:
            found += piece
        return found

    def prefix_lengths(self) -> list[int]:
        """Tokens of the prefix that ends with each step."""
        lengths, total = [], len(self.prompt)
        for piece in self.ids:
            total += len(piece)
            lengths.append(total)
        return lengths


@dataclass
class Traces(Refused):
    """All traces of a run, in the set's order, and how many rows were refused for which reason."""

    traces: list[Trace] = field(default_factory=list)


def cut(completion: str) -> tuple[list[str], list[str]]:
    """The steps of a completion's write-up, and the pieces that its prefixes are made of, one a step.

    A thought before the write-up is part of the first piece: it is rolled out from, and not labelled.
    """
    steps = split_steps(write_up(completion))
    if not steps:
        return [], []
    begins, place = [], max(0, completion.rfind(END_THINK))
    for step in steps:
        found = completion.find(step, place)
        if found < 0:  # a splitter that rewrites its steps: then they are the text
            return steps, [f"{step}\n\n" for step in steps[:-1]] + steps[-1:]
        begins.append(found)
        place = found + len(step)
    bounds = [0, *begins[1:], len(completion)]
    return steps, [completion[begin:end] for begin, end in pairwise(bounds)]


def make_traces(
    records: Iterable[Record], asking: Asking, tokenizer: ChatTokenizer, checker: "SymbolicChecker"
) -> Traces:
    """The rows that have a problem, a gold answer and a completion whose prefixes fit the context.

    Time: linear in text. Memory: texts, 4 bytes a token.
    """
    rows = list(enumerate(records, 1))
    found = Traces()
    # A problem comes once a trace: asked for once, it is no repetition.
    first = {record.problem_id: record for _, record in reversed(rows)}
    tasks = make_tasks(first.values(), asking, tokenizer)
    ready = {task.record.problem_id: task for task in tasks.tasks}
    found.refused.update(tasks.refused)
    found.examples.update({reason: f"problem {text}" for reason, text in tasks.examples.items()})
    seen: set[str] = set()
    for row, record in rows:
        task = ready.get(record.problem_id)
        if task is None:
            if first[record.problem_id] is not record:
                found.refuse("problem is left out", row)
        elif not record.completion.strip():
            found.refuse("no completion", row)
        elif record.id in seen:
            found.refuse("trace given before", row)
        elif parse_gold_or_none(record.answer) != parse_gold(task.record.answer).normalized:
            found.refuse("another gold answer for the same problem", row)
        else:
            seen.add(record.id)
            trace = _trace(record, task, tokenizer, checker)
            if not trace.steps:
                found.refuse("nothing but a thought", row)
                continue
            longest = trace.prefix_lengths()[-2] if len(trace.steps) > 1 else 0
            if longest + min(LEAST_COMPLETION, asking.max_tokens) > asking.context:
                found.refuse("prefixes leave no room in the context", row, f"{longest} tokens")
            else:
                found.traces.append(trace)
    return found


def parse_gold_or_none(answer: str) -> str | None:
    """The canonical form of a gold answer, None where it is none."""
    try:
        return parse_gold(answer).normalized
    except ValueError:
        return None


def _trace(record: Record, task: Task, tokenizer: ChatTokenizer, checker: "SymbolicChecker") -> Trace:
    # What the template already wrote of the assistant's turn is part of the prompt.
    completion = record.completion.removeprefix(task.opening)
    steps, pieces = cut(completion)
    own = record.correct
    if own is None:
        own = check(record.completion, parse_gold(record.answer), checker)
    # Special tokens in a trace are text: recognised, one would end the turn.
    encode = tokenizer.tokenizer
    ids = tuple(
        array("i", encode(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        for piece in pieces
    )
    return Trace(record, tuple(steps), tuple(pieces), task.prompt, ids, own)


def write_traces(path: Path, traces: Iterable[Trace]) -> None:
    """Hand traces to the workers, one JSON line each, atomically."""
    with atomic_writer(path) as file:
        for trace in traces:
            line = {
                "record": trace.record.model_dump(exclude_defaults=True),
                "steps": trace.steps,
                "pieces": trace.pieces,
                "prompt": list(trace.prompt),
                "ids": [list(piece) for piece in trace.ids],
                "own": trace.own,
            }
            file.write(json.dumps(line).encode("ascii") + b"\n")


class TraceFile:
    """What `write_traces` wrote: outlines in memory, the rest read when it is wanted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: list[int] = []
        self.outlines: list[Outline] = []
        for offset, trace in self._scan():
            self._offsets.append(offset)
            self.outlines.append(trace.outline)

    def _scan(self) -> Iterator[tuple[int, Trace]]:
        offset = 0
        with self._path.open("rb") as file:
            for raw in file:
                yield offset, _from_line(raw)
                offset += len(raw)

    def __getitem__(self, index: int) -> Trace:
        with self._path.open("rb") as file:
            file.seek(self._offsets[index])
            return _from_line(file.readline())


def _from_line(raw: bytes) -> Trace:
    data: dict[str, Any] = json.loads(raw)
    return Trace(
        Record.model_validate(data["record"]),
        tuple(data["steps"]),
        tuple(data["pieces"]),
        array("i", data["prompt"]),
        tuple(array("i", piece) for piece in data["ids"]),
        data["own"],
    )


def outlines(traces: Sequence[Trace]) -> list[Outline]:
    """Of each."""
    return [trace.outline for trace in traces]

"""Problems to sample: rows of a data set that have a prompt and a gold answer to verify against."""

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from jinja2 import TemplateError

from kit.data.records import Record
from kit.data.refused import Refused
from submission.answers import parse_gold
from submission.engines.base import Message
from submission.engines.tokenizer import ChatTokenizer
from submission.problems import MAX_PROBLEM_CHARS
from submission.solving.drawing import LEAST_COMPLETION

_THOUGHT = re.compile(r"<think>\s*$")


@dataclass(frozen=True)
class Asking:
    """How a problem is put to a model.

    Args:
        system_prompt: empty leaves the turn out.
        user_prompt: holds `{problem}` once.
        max_tokens: of a completion; what `context` leaves after the prompt is the other bound.
        context: tokens of prompt and completion together at most.
    """

    system_prompt: str
    user_prompt: str
    max_tokens: int
    context: int


@dataclass(frozen=True)
class Task:
    """One problem to sample.

    Args:
        record: the problem, its gold answer, and where it comes from.
        prompt: token ids of the rendered chat.
        max_tokens: what the context leaves for a completion.
        opening: what the template already wrote of the assistant's turn ("<think>"), part of its text.
    """

    record: Record
    prompt: "array[int]"
    max_tokens: int
    opening: str


@dataclass
class Tasks(Refused):
    """All problems of a run, in the data set's order, and how many rows were refused for which reason."""

    tasks: list[Task] = field(default_factory=list)


def make_tasks(records: Iterable[Record], asking: Asking, tokenizer: ChatTokenizer) -> Tasks:
    """The rows that can be sampled and verified; a problem that comes again is taken once.

    Time: linear in rows. Memory: texts, 4 bytes a prompt token.
    """
    control = [str(token) for token in tokenizer.tokenizer.all_special_tokens]
    found = Tasks()
    golds: dict[str, str] = {}
    contradictory: set[str] = set()
    for row, record in enumerate(records, 1):
        fault, detail = _fault(record, control)
        if fault:
            found.refuse(fault, row, detail)
            continue
        key = record.problem_id
        if key in golds:
            if golds[key] != parse_gold(record.answer).normalized:
                contradictory.add(key)
            found.refuse("problem given before", row)
            continue
        golds[key] = parse_gold(record.answer).normalized
        try:
            task = _task(record, asking, tokenizer)
        except TemplateError as error:
            found.refuse("the chat template fails", row, str(error)[:80])
            continue
        if task is None:
            found.refuse("prompt leaves no room in the context", row)
        else:
            found.tasks.append(task)
    for task in found.tasks:
        if task.record.problem_id in contradictory:
            found.refused["two gold answers for one problem"] += 1
            found.examples.setdefault("two gold answers for one problem", task.record.problem[:60])
    found.tasks = [task for task in found.tasks if task.record.problem_id not in contradictory]
    return found


def _fault(record: Record, control: list[str]) -> tuple[str, str]:
    """Why a row cannot be used, and the detail; two empty strings if it can."""
    problem = record.problem
    # Rendered into the chat, such a text would end the user's turn and write the assistant's.
    marks = [mark for mark in control if mark in problem]
    faults = {
        ("empty problem", ""): not problem.strip(),
        ("problem too long", f"{len(problem)} characters"): len(problem) > MAX_PROBLEM_CHARS,
        ("problem holds a control token of the model", "".join(marks[:1])): bool(marks),
        ("no gold answer", ""): not record.answer.strip(),
    }
    fault = next((fault for fault, found in faults.items() if found), None)
    if fault is not None:
        return fault
    try:
        parse_gold(record.answer)
    except ValueError as error:
        return "gold answer cannot be verified", str(error)
    return "", ""


def _task(record: Record, asking: Asking, tokenizer: ChatTokenizer) -> Task | None:
    messages = [Message("user", asking.user_prompt.replace("{problem}", record.problem))]
    if asking.system_prompt:
        messages.insert(0, Message("system", asking.system_prompt))
    prompt = tokenizer.encode_chat(messages)
    room = min(asking.max_tokens, asking.context - len(prompt))
    if room < min(LEAST_COMPLETION, asking.max_tokens):
        return None
    tail = tokenizer.tokenizer.decode(prompt[-8:], skip_special_tokens=False)
    opened = _THOUGHT.search(tail)
    return Task(record, array("i", prompt), room, opened.group() if opened else "")

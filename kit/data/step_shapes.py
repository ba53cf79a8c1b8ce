"""The sets of step-labelled solutions that `kit.data.readers.read_labelled` knows, by their columns.

- PRM800K (Lightman et al. 2023): ratings 1, 0, -1 become 1, `neutral`, 0. The chosen completions are one
  record up to the first wrong step; every other rated completion is a record of its own, whose steps before
  it carry no label, since they were counted already.
- Math-Shepherd (Wang et al. 2024): a step ends with `ки`, in whose place the label has `+` or `-`.
- ProcessBench (Zheng et al. 2024): `label` is the index of the first wrong step from 0, or -1. Nothing is
  known of the steps after it.
- PRMBench (Song et al. 2025): `error_steps` count from 1; the original solution is a record without errors.
- the kit's own: `problem`, `steps` and `labels` (0 to 1, or null); those of `kit.steps` have `soft` labels
  and `estimates` beside the hard ones.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from kit.data.shapes import Fields, Row, RowError, text_of

TAG = "ки"
_FIRST_STEP = re.compile(r"\s*Step 1\s*:")


class StepShape(NamedTuple):
    """A known format: it is this one where all of `columns` are there."""

    name: str
    columns: frozenset[str]
    convert: Callable[[Row, "Reading"], Iterator[Fields]]
    """To fields of `LabelledSolution`s."""


class Reading(NamedTuple):
    """How labels are read where a set leaves a choice."""

    neutral: float | None = 1.0
    """Label of a step that is neither right nor wrong (PRM800K's 0); None leaves it out."""
    labels: Literal["hard", "soft", "estimates"] = "hard"
    """Which of `kit.steps`' columns; a set without them has hard ones only."""


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise RowError(f"column {name!r} is no list of texts")
    return list(value)


def _own(row: Row, how: Reading) -> Iterator[Fields]:
    hard, name = row["labels"], how.labels
    labels = hard if name == "hard" or name not in row else row[name]
    for column, values in (("labels", hard), (name, labels)):
        if not isinstance(values, list | tuple) or len(values) != len(hard):
            raise RowError(f"column {column!r} is no list of as many labels as steps")
    # A bisection infers labels without a roll-out: those have no soft one.
    told = [known if value is None else value for value, known in zip(labels, hard, strict=True)]
    found = {**_named(row, "problem"), "steps": _texts(row["steps"], "steps"), "labels": told}
    yield {**found, "first_error": row["first_error"]} if "first_error" in row else found


def _named(row: Row, problem: str) -> Fields:
    named = {"problem": text_of(row[problem], problem), "id": text_of(row.get("id", row.get("idx")), "id")}
    source = row.get("source")
    return {**named, "source": source} if isinstance(source, str) else named


def _process_bench(row: Row, _: Reading) -> Iterator[Fields]:
    steps, first = _texts(row["steps"], "steps"), row["label"]
    if not isinstance(first, int) or isinstance(first, bool) or not -1 <= first < len(steps):
        raise RowError(f"label {first!r} is neither -1 nor the index of one of {len(steps)} steps")
    labels: list[float | None] = [1.0] * len(steps)
    if first >= 0:
        labels[first:] = [0.0, *[None] * (len(steps) - first - 1)]
    yield {**_named(row, "problem"), "steps": steps, "labels": labels}


def _prm_bench(row: Row, _: Reading) -> Iterator[Fields]:
    steps, wrong = _texts(row["modified_process"], "modified_process"), row["error_steps"]
    numbers = wrong if isinstance(wrong, list | tuple) else [None]
    if not all(type(number) is int and 1 <= number <= len(steps) for number in numbers):
        raise RowError(f"error_steps {str(wrong)[:60]} are not numbers from 1 to {len(steps)}")
    name = text_of(row.get("idx", row.get("id")), "idx")
    asked = next(key for key in ("modified_question", "question") if key in row)
    yield {
        "problem": text_of(row[asked], asked),
        "steps": steps,
        "labels": [float(number not in numbers) for number in range(1, len(steps) + 1)],
        "id": name,
    }
    original = row.get("original_process")
    if original:
        right = _texts(original, "original_process")
        question = text_of(row.get("original_question", row.get("question")), "original_question")
        labels = [1.0] * len(right)
        yield {"problem": question, "steps": right, "labels": labels, "id": f"{name}/original"}


def _math_shepherd(row: Row, _: Reading) -> Iterator[Fields]:
    text, labelled = text_of(row["input"], "input"), text_of(row["label"], "label")
    *parts, tail = text.split(TAG)
    if not parts or tail.strip():
        raise RowError(f"the last step does not end with {TAG!r}" if parts else f"there is no {TAG!r}")
    labels, at = [], 0
    for number, part in enumerate(parts, 1):
        at += len(part)
        mark = labelled[at : at + 1]
        if labelled[at - len(part) : at] != part or mark not in ("+", "-"):
            raise RowError(f"label and input differ in step {number}, or it has neither + nor -")
        labels.append(float(mark == "+"))
        at += 1
    found = list(_FIRST_STEP.finditer(parts[0]))
    if not found:
        raise RowError("nothing begins with 'Step 1:', so problem and solution cannot be told apart")
    begin = found[-1].start()
    steps = [parts[0][begin:].strip(), *(part.strip() for part in parts[1:])]
    yield {"problem": parts[0][:begin].strip(), "steps": steps, "labels": labels}


def _prm800k(row: Row, how: Reading) -> Iterator[Fields]:
    question, label = row["question"], row["label"]
    turns = label.get("steps") if isinstance(label, Mapping) else None
    if not isinstance(question, Mapping) or not isinstance(turns, list | tuple) or not turns:
        raise RowError("column 'question' or 'label' is not PRM800K's")
    problem = text_of(question.get("problem"), "question.problem")
    steps: list[str] = []
    labels: list[float | None] = []
    others: list[Fields] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("column 'label' holds a step that is no object")
        rated = _completions(turn, how.neutral)
        chosen = _chosen(turn, rated)
        before: list[float | None] = [None] * len(steps)
        for index, (text, value) in enumerate(rated):
            if index != chosen and value is not None:
                others.append({"problem": problem, "steps": [*steps, text], "labels": [*before, value]})
        if chosen is None:
            human = turn.get("human_completion")
            written = human.get("text") if isinstance(human, Mapping) else None
            if not isinstance(written, str) or not written.strip():
                break  # the labeller gave up, or found only errors: those are among the others
            steps, labels = [*steps, written], [*labels, 1.0]
            continue
        text, value = rated[chosen]
        steps, labels = [*steps, text], [*labels, value]
        if value == 0:
            break
    if any(value is not None for value in labels):
        yield {"problem": problem, "steps": steps, "labels": labels}
    elif not others:
        raise RowError("no step has a rating")
    yield from others


def _chosen(turn: Mapping[str, Any], rated: list[tuple[str, float | None]]) -> int | None:
    index = turn.get("chosen_completion")
    if index is None:
        return 0 if len(rated) == 1 and rated[0][1] == 0 else None
    if type(index) is not int or not 0 <= index < len(rated):
        raise RowError(f"chosen_completion {str(index)[:20]!r} is not one of {len(rated)} completions")
    return index


def _completions(turn: Mapping[str, Any], neutral: float | None) -> list[tuple[str, float | None]]:
    values = {1: 1.0, 0: neutral, -1: 0.0, None: None}
    found = []
    for completion in turn.get("completions") or ():
        text = completion.get("text") if isinstance(completion, Mapping) else None
        rating = completion.get("rating") if isinstance(completion, Mapping) else None
        if not isinstance(text, str) or not isinstance(rating, int | None) or rating not in values:
            raise RowError("a completion has no text, or a rating that is none of -1, 0, 1 and null")
        found.append((text, values[rating]))
    return found


def _shape(
    name: str, columns: Iterable[str], convert: Callable[[Row, Reading], Iterator[Fields]]
) -> StepShape:
    return StepShape(name, frozenset(columns), convert)


# The first one that fits counts, so the more telling columns come first.
STEP_SHAPES = (
    _shape("PRMBench", ("modified_process", "error_steps", "question"), _prm_bench),
    _shape("PRMBench", ("modified_process", "error_steps", "modified_question"), _prm_bench),
    _shape("the kit's step labels", ("problem", "steps", "labels"), _own),
    _shape("ProcessBench", ("problem", "steps", "label"), _process_bench),
    _shape("PRM800K", ("question", "label"), _prm800k),
    _shape("Math-Shepherd", ("input", "label"), _math_shepherd),
)


def recognise_steps(columns: Iterable[str], how: Reading) -> Callable[[Row], Iterator[Fields]]:
    """What turns a row with these columns into fields of labelled solutions.

    Raises:
        RowError: no format fits; the message names the columns.
    """
    names = frozenset(columns)
    for shape in STEP_SHAPES:
        if shape.columns <= names:
            return partial(_converted, shape, how)
    listed = ", ".join(sorted(map(str, names))[:20])
    raise RowError(
        f"columns {listed} are those of no known set of step labels; write {{problem, steps, labels}}, with "
        "labels from 0 to 1, or null where nothing is known"
    )


def _converted(shape: StepShape, how: Reading, row: Row) -> Iterator[Fields]:
    return shape.convert(row, how)

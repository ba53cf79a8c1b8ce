r"""The sets this reader knows, by their columns: what a row of each becomes.

Conversions, so that all sets look alike:
- thought markers (`<|begin_of_thought|>`...) become `<think>`...`</think>` and the solution after it;
- GSM8K's `#### 72` becomes a last line with `\boxed{72}`, and its `<<48/2=24>>` marks go;
- the gold answer is the set's answer column, or the box of its *reference* solution where it has none. It is
  never taken from a model's own completion: that would verify anything.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kit.data.records import Record
from submission.answers import extract

Row = Mapping[str, Any]
Fields = dict[str, Any]


class RowError(ValueError):
    """A row that gives no record, and why."""


class Shape(NamedTuple):
    """A known format: it is this one where all of `columns` are there."""

    name: str
    columns: frozenset[str]
    convert: Callable[[Row], Iterator[Fields | RowError]]


_THOUGHT = ("<|begin_of_thought|>", "<|end_of_thought|>")
_SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_ROLES = {"human": "user", "gpt": "assistant"}


def text_of(value: Any, name: str) -> str:
    """Text of a cell: numbers are written out (70.0 as 70), null is empty, a list of one is its member.

    Raises:
        RowError: it is of another type, or a number that is not finite.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise RowError(f"column {name!r} holds a {type(value).__name__}, not a text")


def _text(row: Row, *names: str) -> str:
    """The first of these columns that is not empty."""
    return next((text for name in names if (text := text_of(row.get(name), name)).strip()), "")


def answer_in(reference: str) -> str:
    """The final answer of a reference solution, as it stands in its last box or after its "####"."""
    found = extract(reference)
    return found.text if found else ""


def from_markers(text: str) -> str:
    """A completion with thought and solution markers in the project's form, `<think>` + solution."""
    if _THOUGHT[0] not in text:
        return text
    _, _, rest = text.partition(_THOUGHT[0])
    thought, closed, rest = rest.partition(_THOUGHT[1])
    if not closed:
        raise RowError("the thought is not closed by <|end_of_thought|>")
    solution = rest.partition(_SOLUTION[0])[2].partition(_SOLUTION[1])[0] if _SOLUTION[0] in rest else rest
    return f"<think>\n{thought.strip()}\n</think>\n\n{solution.strip()}"


def _trace(row: Row) -> Iterator[Fields]:
    texts = {name: text_of(row[name], name) for name in ("problem", "answer", "level") if name in row}
    yield {**{key: value for key, value in row.items() if value is not None}, **texts}


def _dialogue(value: Any, name: str) -> Fields:
    """System, problem and completion of a list of messages with one question and at most one answer."""
    if not isinstance(value, list | tuple) or not value:
        raise RowError(f"column {name!r} is no list of messages")
    fields: Fields = {"system": "", "problem": "", "completion": ""}
    keys = {"system": "system", "user": "problem", "assistant": "completion"}
    for message in value:
        if not isinstance(message, Mapping):
            raise RowError(f"column {name!r} holds a {type(message).__name__} in place of a message")
        role = message.get("from", message.get("role"))
        role = _ROLES.get(role, role) if isinstance(role, str) else None
        key = keys.get(role or "")
        if key is None:
            raise RowError(f"column {name!r} holds a message of an unknown role")
        if fields[key]:
            raise RowError(f"column {name!r} is a dialogue of several turns")
        fields[key] = text_of(message.get("value", message.get("content")), name)
    return fields


def _conversations(row: Row) -> Iterator[Fields]:
    fields = _dialogue(row["conversations"], "conversations")
    fields["completion"] = from_markers(fields["completion"])
    yield {**fields, "system": fields["system"] or _text(row, "system"), **_gold(row)}


def _messages(row: Row) -> Iterator[Fields]:
    fields = _dialogue(row["messages"], "messages")
    yield {**fields, "completion": from_markers(fields["completion"]), **_gold(row)}


def _gold(row: Row) -> Fields:
    return {"answer": _text(row, "ground_truth", "gt", "answer"), "level": _text(row, "level", "difficulty")}


def _prompt(row: Row) -> Iterator[Fields]:
    prompt, completion = row["prompt"], row.get("completion", row.get("response"))
    if isinstance(prompt, list | tuple):
        answer = list(completion) if isinstance(completion, list | tuple) else []
        yield {**_dialogue([*prompt, *answer], "prompt"), **_gold(row)}
    else:
        text = from_markers(text_of(completion, "completion"))
        yield {"problem": text_of(prompt, "prompt"), "completion": text, **_gold(row)}


def _attempt(row: Row) -> Iterator[Fields]:
    correct = row.get("isCorrect", row.get("is_correct"))
    yield {
        "problem": _text(row, "problem", "question"),
        "completion": from_markers(_text(row, "solution", "completion", "response")),
        "answer": text_of(row["ground_truth"], "ground_truth"),
        "correct": correct if isinstance(correct, bool) else None,
    }


def _several(row: Row, completions: str, verdicts: str, finished: str = "") -> Iterator[Fields | RowError]:
    """One record a completion, with its verdict; `pass_rate` is the share of right ones among all judged."""
    texts, judged, whole = row[completions], row.get(verdicts), row.get(finished)
    if not isinstance(texts, list | tuple) or not texts:
        raise RowError(f"column {completions!r} is no list of completions")
    flags = list(judged) if isinstance(judged, list | tuple) and len(judged) == len(texts) else []
    ends = list(whole) if isinstance(whole, list | tuple) and len(whole) == len(texts) else []
    known = [flag for flag in flags if isinstance(flag, bool)]
    for index, text in enumerate(texts):
        if ends and ends[index] is False:
            yield RowError("the completion was cut off")
        elif not isinstance(text, str):
            yield RowError(f"column {completions!r} holds a {type(text).__name__} in place of a completion")
        else:
            yield {
                "problem": _text(row, "problem", "question"),
                "completion": from_markers(text),
                "answer": _text(row, "gt", "answer") or answer_in(_text(row, "solution")),
                "system": _text(row, "system"),
                "level": _text(row, "level"),
                "attempt": index,
                "correct": flags[index] if flags and isinstance(flags[index], bool) else None,
                "pass_rate": sum(known) / len(known) if known else None,
            }


def _open_r1(row: Row) -> Iterator[Fields | RowError]:
    return _several(row, "generations", "correctness_math_verify", "is_reasoning_complete")


def _harness(row: Row) -> Iterator[Fields | RowError]:
    return _several(row, "code", "score")


def _reference(row: Row) -> Iterator[Fields]:
    solution = _text(row, "solution")
    answer = _text(row, "answer") or answer_in(solution)
    subset = _text(row, "source") if "messages" in row else ""
    level = _text(row, "level", "difficulty")
    yield {
        "problem": _text(row, "problem"),
        "completion": solution,
        "answer": answer,
        "level": level,
        "subset": subset,
    }


def _question(row: Row) -> Iterator[Fields]:
    """GSM8K, whose answer is a solution that ends in "#### 72", and sets of bare answers."""
    problem = _text(row, "problem", "question", "Problem", "Question")
    answer = _text(row, "answer", "Answer")
    solution, mark, final = answer.rpartition("####")
    fields = {"problem": problem, "level": _text(row, "level", "difficulty")}
    if not mark:
        yield {**fields, "answer": answer}
        return
    steps = _CALCULATOR.sub("", solution).strip()
    yield {
        **fields,
        "answer": final.strip(),
        "completion": f"{steps}\nThe final answer is $\\boxed{{{final.strip()}}}$.",
    }


def _shape(name: str, columns: Iterable[str], convert: Callable[[Row], Iterator[Fields | RowError]]) -> Shape:
    return Shape(name, frozenset(columns), convert)


# The first one that fits counts, so the more telling columns come first.
SHAPES = (
    _shape("OpenR1-Math", ("problem", "generations"), _open_r1),
    _shape("Bespoke-Stratos, OpenThoughts", ("conversations",), _conversations),
    _shape("Qwen2.5-Math harness samples", ("question", "gt", "code"), _harness),
    _shape("attempts with a gold answer", ("problem", "solution", "ground_truth"), _attempt),
    _shape("NuminaMath, MATH, AIME with solutions", ("problem", "solution"), _reference),
    _shape("messages", ("messages",), _messages),
    _shape("prompt and completion", ("prompt", "completion"), _prompt),
    _shape("prompt and response", ("prompt", "response"), _prompt),
    _shape("GSM8K, or questions with answers", ("question", "answer"), _question),
    _shape("AIME collection", ("Question", "Answer"), _question),
    _shape("problems with answers", ("problem", "answer"), _question),
    _shape("problems alone", ("problem",), _question),
)
TRACE = _shape("the kit's trace format", ("problem",), _trace)


def recognise(columns: Iterable[str]) -> Shape:
    """The format of a set with these columns.

    Raises:
        RowError: none fits; the message names the columns, and what to do.
    """
    names = frozenset(columns)
    if "problem" in names and names <= Record.model_fields.keys():
        return TRACE
    for shape in SHAPES:
        if shape.columns <= names:
            return shape
    listed = ", ".join(sorted(map(str, names))[:20])
    raise RowError(
        f"columns {listed} are those of no known set; map them, for example columns = {{ problem = "
        '"<column>", completion = "<column>", answer = "<column>" }'
    )

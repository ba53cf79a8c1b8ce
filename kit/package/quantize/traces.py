"""Which of the project's reasoning traces calibrate a quantizer, and which are held out to judge it.

Problems, not traces, are divided, so that no held-out trace is another solution of a calibrating problem.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.data.records import Record, read_records

MIN_CALIBRATION, MIN_HELD_OUT = 64, 32
"""Fewer say more about themselves than about the model: GPTQ on 16 was seen to lose to plain rounding."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How traces are drawn.

    Args:
        files: in the project's trace format; all are read.
        calibration, held_out: traces of each kind, at most.
        max_length: tokens of a trace with its prompt; a longer one is cut at its end.
    """

    files: tuple[Path, ...]
    calibration: int = 256
    held_out: int = 64
    max_length: int = 2_048
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that can never be enough."""
        if self.calibration < MIN_CALIBRATION:
            raise ValueError(
                f"--calibration-count {self.calibration} is too few: at least {MIN_CALIBRATION} traces, or "
                "what is chosen for them suits nothing else"
            )
        if self.held_out < MIN_HELD_OUT or self.max_length < 8:
            raise ValueError(
                f"{self.held_out} held-out traces of {self.max_length} tokens judge nothing: at least "
                f"{MIN_HELD_OUT} of 8"
            )


@dataclass(frozen=True, slots=True)
class Drawn:
    """Traces to calibrate with and to judge by; no problem is in both."""

    calibration: tuple[Record, ...]
    held_out: tuple[Record, ...]
    problems: int
    """In all files."""


def draw(wanted: Wanted, *, calibrated: bool, wrong: bool = False) -> Drawn:
    """Divide and choose by a hash of seed and problem: the same files in any order give the same traces.

    Args:
        calibrated: whether traces for calibration are needed at all.
        wrong: take traces that are known to be wrong, too: what a process reward model is there to judge.

    Raises:
        ValueError: no file, one that cannot be read, or too few problems with a completion.
    """
    if not wanted.files:
        raise ValueError(
            "--calibration-traces is missing: name the jsonl of reasoning traces (`python -m kit.traces`) "
            "that the quantized model is judged by, and calibrated on where its scheme is"
        )
    by_problem: dict[str, list[Record]] = {}
    for file in wanted.files:
        for record in read_records(file):
            if record.completion and (wrong or record.correct is not False):
                by_problem.setdefault(record.problem_id, []).append(record)
    needed = MIN_HELD_OUT + (MIN_CALIBRATION if calibrated else 0)
    if len(by_problem) < needed:
        raise ValueError(
            f"{_names(wanted.files)}: {len(by_problem)} problems with a completion"
            f"{'' if wrong else ' that is not known to be wrong'}; at least {needed} are needed, "
            f"{MIN_HELD_OUT} of them held out: make more with `python -m kit.traces`"
            + (", or choose fp8, int8-rtn or w4a16-rtn, which calibrate nothing" if calibrated else "")
        )
    order = sorted(
        by_problem, key=lambda problem: hashlib.sha256(f"{wanted.seed}:{problem}".encode()).digest()
    )
    aside = min(wanted.held_out, len(order) - (MIN_CALIBRATION if calibrated else 0))
    held_out = _in_turn([by_problem[problem] for problem in order[:aside]], aside)
    rest = [by_problem[problem] for problem in order[aside:]]
    chosen = _in_turn(rest, wanted.calibration) if calibrated else []
    return Drawn(tuple(chosen), tuple(held_out), len(by_problem))


def _names(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))


def _in_turn(groups: Iterable[list[Record]], count: int) -> list[Record]:
    """One trace of each problem, then a second of each, until there are enough."""
    waiting = [sorted(group, key=lambda record: (record.attempt, record.id)) for group in groups]
    found: list[Record] = []
    while waiting and len(found) < count:
        found += [group.pop(0) for group in waiting]
        waiting = [group for group in waiting if group]
    return found[:count]


def solver_rows(folder: Path, records: Sequence[Record], max_length: int) -> list[tuple[list[int], int]]:
    """Token ids of each trace under the model's chat template, and where its completion begins.

    A trace that cannot be said in the model's tokens, or whose prompt alone is too long, is left out.

    Raises:
        ValueError: the tokenizer cannot be read, has no chat template, or none of the traces is usable.
    """
    from kit.training.chat import UnusableError, open_chat
    from kit.training.model import load_tokenizer

    chat = open_chat(load_tokenizer(folder), str(folder))
    rows = []
    reason = "there are none"
    for record in records:
        try:
            row, _ = chat.row(record, max_length, "cut")
        except UnusableError as error:
            reason = str(error)
            continue
        rows.append((row.ids.tolist(), int(row.mask.argmax())))
    _check_usable(len(rows), len(records), reason)
    return rows


def prm_rows(folder: Path, records: Sequence[Record], max_length: int) -> list[list[int]]:
    """Token ids of each trace laid out as the process reward model scores it; the first window of each."""
    from submission.prm.encoding import StepEncoder, scored_context
    from submission.prm.heads import read_prm
    from submission.steps import split_steps, write_up

    form = read_prm(folder)
    encoder: Any = StepEncoder(folder, form)
    context = min(max_length, scored_context(folder, form))
    found = [
        encoder.layouts(
            encoder.prompt(record.problem), split_steps(write_up(record.completion)), context, "windows"
        )
        for record in records
    ]
    rows = [list(layouts[0].ids) for layouts in found if layouts]
    _check_usable(len(rows), len(records), "no step is left once the thoughts are taken out")
    return rows


def _check_usable(usable: int, drawn: int, reason: str) -> None:
    if usable < MIN_HELD_OUT:
        raise ValueError(
            f"only {usable} of {drawn} traces can be put in the model's tokens, at least {MIN_HELD_OUT} are "
            f"needed ({reason}): take traces that were made for this model"
        )


def check_tokens(rows: Sequence[Sequence[int]], widest: int) -> int:
    """Tokens of the calibration; GPTQ's matrix of second moments has no full rank on fewer than inputs.

    Args:
        widest: inputs of the widest layer.

    Raises:
        ValueError: there are too few.
    """
    tokens = sum(map(len, rows))
    if tokens < widest:
        raise ValueError(
            f"{len(rows)} calibration traces have {tokens:,} tokens, fewer than the {widest:,} inputs of the "
            "widest layer, which leaves its weights undetermined: give more or longer traces, or choose fp8, "
            "int8-rtn or w4a16-rtn"
        )
    return tokens

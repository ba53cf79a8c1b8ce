"""Do student and teacher speak of the same tokens? Their distributions can be compared only if they do."""

from collections.abc import Mapping
from typing import Any


def check_same_tokens(student: Any, teacher: Any, student_name: str, teacher_name: str) -> int:
    """How many tokens both have under the same ids, special ones aside.

    Special tokens may be named differently (R1-Distill-Qwen renames those of Qwen2.5); ordinary ones may not.

    Returns:
        The number of real tokens: rows of the models beyond it are padding.

    Raises:
        ValueError: naming the first token that differs, and the ways out.
    """
    ours, theirs = _ordinary(student), _ordinary(teacher)
    size: int = 1 + max(*student.get_vocab().values(), *teacher.get_vocab().values())
    for index in sorted({*ours, *theirs}):
        # An id that is ordinary for one and special for the other means two things as well.
        if ours.get(index) != theirs.get(index):
            raise ValueError(
                f"teacher {teacher_name} has another vocabulary than student {student_name}: id {index} is "
                f"{_show(teacher, index)} there and {_show(student, index)} here. Take a teacher of the "
                "student's family, or train on its traces alone: loss.alpha=0"
            )
    return size


def _ordinary(tokenizer: Any) -> Mapping[int, str]:
    special = set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids)
    return {index: token for token, index in tokenizer.get_vocab().items() if index not in special}


def _show(tokenizer: Any, index: int) -> str:
    return repr(tokenizer.convert_ids_to_tokens(index)) if index < len(tokenizer) else "nothing"

"""The consensus filter (Zhang et al. 2025): keep a record where a judge finds the first error where the
roll-outs found it, or both find none. Pure: the judge's text comes in, a decision goes out.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from kit.steps.records import StepRecord
from submission.parsing.extraction import boxes

PROMPT = Path(__file__).resolve().parents[1] / "recipes" / "steps_judge.toml"
CUT, UNREADABLE, OUTSIDE = "judge was cut off", "judge gives no number", "judge names no step"
STRICTER, MILDER, ELSEWHERE = (
    "judge finds an error, roll-outs none",
    "roll-outs find an error, judge none",
    "judge finds the first error elsewhere",
)
_NUMBER = re.compile(r"-1|0|[1-9][0-9]{0,5}")
_MARK = re.compile(r"<(?=/?\s*step)", re.IGNORECASE)


@dataclass(frozen=True)
class JudgePrompt:
    """How a judge is asked.

    Args:
        system: its system message.
        user: with `{problem}`, `{steps}` and `{last}` in it, each at least once.
    """

    system: str
    user: str

    @classmethod
    def load(cls, path: Path = PROMPT) -> "JudgePrompt":
        """Read a TOML file with `system` and `user`. ValueError where it lacks or mistakes them."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"judge prompt {path} cannot be read: {error}") from None
        if set(data) != {"system", "user"} or not all(isinstance(text, str) for text in data.values()):
            raise ValueError(
                f"judge prompt {path} holds {sorted(data)}; it must hold the texts system and user"
            )
        missing = [name for name in ("{problem}", "{steps}", "{last}") if name not in data["user"]]
        if missing:
            raise ValueError(f"judge prompt {path}: user does not hold {', '.join(missing)}")
        return cls(data["system"], data["user"])

    def render(self, record: StepRecord) -> str:
        """The user's message. Each step stands between marks that no text of the trace can write."""
        steps = "\n\n".join(
            f"<step {number}>\n{_MARK.sub('&lt;', step)}\n</step {number}>"
            for number, step in enumerate(record.steps)
        )
        values = {
            "problem": _MARK.sub("&lt;", record.problem),
            "steps": steps,
            "last": str(len(record.steps) - 1),
        }
        # One pass: a problem that holds "{steps}" stays as it is.
        return re.sub(r"\{(problem|steps|last)\}", lambda found: values[found.group(1)], self.user)


def parse_verdict(text: str, finish: str, steps: int) -> int | str:
    """Index of the first error that a judge names, -1 for none; or why its answer does not count.

    Strict: the completion ended by itself, and its last box holds a whole number from -1 to `steps` - 1 and
    nothing else. A verdict that has to be guessed is none.
    """
    if finish != "stop":
        return CUT
    box = next(boxes(text), None)
    # A last box that never closes must not make the one before it the verdict.
    if box is None or text.rfind("\\boxed") > box[1] or not _NUMBER.fullmatch(box[0].strip()):
        return UNREADABLE
    number = int(box[0])
    return number if number < steps else OUTSIDE


def disagreement(record: StepRecord, verdict: int | str) -> str:
    """Why a record is dropped; empty where judge and roll-outs agree on the first error."""
    if isinstance(verdict, str):
        return verdict
    if verdict == record.first_error:
        return ""
    if record.first_error < 0:
        return STRICTER
    return MILDER if verdict < 0 else ELSEWHERE

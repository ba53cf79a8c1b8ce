"""The mark of a run in which no model answered: such a run looks like any other but for its score."""

from pathlib import Path

from submission.journal import AnswerLine, FaultLine, ProblemLine, read_journal


def no_model_answered(journal: Path) -> str:
    """What to say of a run whose answers are all defaults; "" where a model answered, or nothing was asked.

    Problems that ended without an answer of their own (the contest gave the default from outside) count as
    unanswered; so do all of a journal that could not be written.
    """
    content = read_journal(journal)
    answers = content.of(AnswerLine)
    asked = {line.id for line in content.of(ProblemLine)} | {line.id for line in answers}
    if any(line.source != "default" for line in answers):
        return ""
    if not asked and content.lines:
        return ""
    faults = list(dict.fromkeys(f"{line.what}: {line.error}" for line in content.of(FaultLine)))
    reason = f"; first of {len(faults)} faults: {faults[0]}" if faults else ""
    number = f"all {len(asked)} answers are the default" if asked else "the journal holds no answer"
    return f"NO MODEL ANSWERED: {number}{reason}"

"""Which problems of a set were in the training data: a score on those tells of memory, not of skill."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.run.sets import ProblemSet
from kit.data.readers import read
from kit.data.steps.contamination import Contamination, HeldOut

RECORDS = "records.jsonl"
"""What `python -m kit.data` calls a cleaned set; its folder holds other files, too."""


def contaminated(sets: Sequence[ProblemSet], training: str) -> dict[str, list[str]]:
    """Ids of each set's problems that the training data repeats, with the rule of `kit.data`'s own step.

    Args:
        sets: what will be played.
        training: a file or folder of training data, or a hub name.

    Raises:
        ValueError: it cannot be read.
    """
    rule = Contamination()
    folder = Path(training)
    source = str(folder / RECORDS) if (folder / RECORDS).is_file() else training
    # One index a set: a training text names the one problem that it repeats most, and sets overlap.
    held_out = {one.name: HeldOut({one.name: (item.text for item in one.items)}, rule.ngram) for one in sets}
    hits: dict[str, set[str]] = {one.name: set() for one in sets}
    seen: set[str] = set()
    for record in read(source):
        if record.problem in seen:
            continue
        seen.add(record.problem)
        for name, index in held_out.items():
            hit = index.find(record.problem, rule.overlap)
            if hit is not None:
                hits[name].add(hit.problem)
    return {one.name: [item.id for item in one.items if item.text in hits[one.name]] for one in sets}

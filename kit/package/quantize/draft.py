"""A draft model for speculative decoding that goes along: small, and of the solver's own vocabulary.

Draft tokens are proposed by id (Leviathan et al. 2023, arXiv 2211.17192), so both models must mean the same
by each; vLLM wants equally many rows, too.
"""

from pathlib import Path

from submission.checkpoint import Checkpoint, inspect, read_json


def check_draft(draft: Path, solver: Checkpoint) -> Checkpoint:
    """The draft model, once it is whole and goes with the solver.

    Raises:
        ValueError: it is no checkpoint, not smaller than the solver, or of another vocabulary.
    """
    found = inspect(draft)
    if found.size >= solver.size:
        raise ValueError(
            f"--draft {draft} ({found.size / 1e6:,.0f} MB) is not smaller than the solver "
            f"({solver.size / 1e6:,.0f} MB), so it cannot save time; name a smaller model of its family"
        )
    rows = [_rows(folder) for folder in (draft, solver.folder)]
    if rows[0] != rows[1]:
        raise ValueError(
            f"--draft {draft} has {rows[0]} rows of vocabulary and the solver {rows[1]}: vLLM refuses the "
            "pair; name a model of the solver's family with the same vocab_size"
        )
    from kit.training.model import load_tokenizer

    mine, other = (load_tokenizer(folder).get_vocab() for folder in (draft, solver.folder))
    if mine != other:
        odd = sorted(token for token in {*mine, *other} if mine.get(token) != other.get(token))
        raise ValueError(
            f"--draft {draft} and the solver give {len(odd)} tokens different ids ({odd[0]!r}: "
            f"{mine.get(odd[0])} and {other.get(odd[0])}): what one proposes would mean something "
            "else to the other"
        )
    return found


def _rows(folder: Path) -> int | None:
    config = read_json(folder / "config.json")
    inner = config.get("text_config")
    found = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    return int(found) if found is not None else None

from pathlib import Path

import pytest

from submission.degrade import PATIENCE, Serving, degrade, forgive, ladder, next_rung
from submission.settings import EngineSettings

FIRST = Serving(Path("a"), EngineSettings(max_num_seqs=64, max_model_len=40_960), Path("b"))


def rung(failures: int) -> tuple[str, int, int, bool | None] | None:
    serving = degrade(FIRST, failures)
    if serving is None:
        return None
    settings = serving.settings
    return str(serving.model), settings.max_num_seqs, settings.max_model_len, settings.enforce_eager


def test_every_second_failure_leads_one_rung_down() -> None:
    assert PATIENCE == 2
    assert [rung(failures) for failures in range(12)] == [
        ("a", 64, 40_960, None),
        ("a", 64, 40_960, None),
        ("a", 32, 40_960, None),
        ("a", 32, 40_960, None),
        ("a", 32, 20_480, None),
        ("a", 32, 20_480, None),
        ("a", 32, 20_480, True),
        ("a", 32, 20_480, True),
        ("b", 32, 20_480, True),
        ("b", 32, 20_480, True),
        None,
        None,
    ]


def test_rungs_that_change_nothing_are_left_out() -> None:
    smallest = Serving(Path("a"), EngineSettings(max_num_seqs=1, max_model_len=4_096, enforce_eager=True))
    assert ladder(smallest) == (smallest,)
    assert degrade(smallest, 1) == smallest and degrade(smallest, 2) is None


def test_a_context_is_not_cut_below_a_solutions_length() -> None:
    serving = Serving(Path("a"), EngineSettings(max_num_seqs=1, max_model_len=10_000, enforce_eager=True))
    assert [one.settings.max_model_len for one in ladder(serving)] == [10_000, 8_192]


@pytest.mark.parametrize(("failures", "next_one", "forgiven"), [(0, 2, 0), (1, 2, 0), (2, 4, 2), (3, 4, 2)])
def test_counts(failures: int, next_one: int, forgiven: int) -> None:
    assert next_rung(failures) == next_one
    assert forgive(failures) == forgiven
    assert degrade(FIRST, next_one) != degrade(FIRST, failures) == degrade(FIRST, forgiven)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="failures -1"):
        degrade(FIRST, -1)

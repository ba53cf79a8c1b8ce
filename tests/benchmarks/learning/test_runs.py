"""What a run may leave a result of."""

import pytest

from benchmarks.learning.runs import check_finished
from kit.training.loop import Outcome


def test_a_run_that_was_stopped_is_none() -> None:
    check_finished(Outcome(steps=3, total=3))
    with pytest.raises(ValueError, match="stopped by SIGTERM after 2 of 3 steps"):
        check_finished(Outcome(steps=2, total=3, stopped="SIGTERM"))

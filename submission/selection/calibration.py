"""What cross-validation found about a rule, as a file that travels in the bundle.

A rule is used only where it was shown to help; otherwise, and where the file is damaged, the plain vote is.
"""

import logging
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from submission.files import write_text
from submission.selection.rule import PLAIN, Method, Rule

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""No calibration is larger; what is, is damaged."""

Share = Annotated[float, Field(ge=-1, le=1)]


class Calibration(BaseModel):
    """The best rule on held-out problems, and whether it beats the plain vote there.

    Args:
        method: the rule's method, for the reader; that of `parameters`.
        parameters: the rule, fitted on all problems.
        helps: whether `gain` is clear of zero: see `submission.selection.fitting.fit`.
        gain: cross-validated accuracy less the plain vote's.
        interval: of the gain, from a paired bootstrap over problems.
        level: of the interval.
        p_value: of McNemar's exact test, two-sided.
        accuracy: cross-validated, of the rule.
        majority: accuracy of the plain vote on the same problems.
        problems: how many.
        seed, folds: of the cross-validation.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    method: Method
    parameters: Rule
    helps: bool
    gain: Share
    interval: tuple[Share, Share]
    level: Annotated[float, Field(gt=0, lt=1)]
    p_value: Annotated[float, Field(ge=0, le=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    majority: Annotated[float, Field(ge=0, le=1)]
    problems: Annotated[int, Field(ge=1)]
    seed: int
    folds: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _consistent(self) -> "Calibration":
        if self.method != self.parameters.method:
            raise ValueError(f"method {self.method!r} is not the parameters' {self.parameters.method!r}")
        if self.helps and not self.interval[0] > 0:
            raise ValueError(f"helps is true, but the interval {self.interval} is not above zero")
        return self

    @property
    def rule(self) -> Rule:
        """The rule to choose by: the plain vote unless another was shown to help."""
        return self.parameters if self.helps else PLAIN


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write it as JSON, atomically."""
    write_text(path, calibration.model_dump_json(indent=1) + "\n")


def load_calibration(path: Path) -> Calibration:
    """Read and check a calibration.

    Raises:
        ValueError: the file is missing or cannot be read, or is no calibration.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"calibration {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"calibration {path} has over {MAX_BYTES} bytes; write it with `python -m kit.calibrate`"
        )
    try:
        return Calibration.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ValueError(
            f"calibration {path} is damaged ({where}: {first['msg']}); write it anew with "
            "`python -m kit.calibrate`"
        ) from None


def load_rule(path: Path | None) -> Rule:
    """The rule of a calibration file; the plain vote without a file, or with one that is damaged.

    Never raises: what went wrong is logged.
    """
    if path is None:
        return PLAIN
    try:
        return load_calibration(path).rule
    except ValueError as error:
        log.warning("%s; the plain vote is taken", error)
        return PLAIN

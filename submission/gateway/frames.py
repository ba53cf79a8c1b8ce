"""What goes over the gateway: single values in, one-row frames out, in polars or pandas.

Gateways have sent scalars, Series and DataFrames of either library; all of them are read by what they can
do, not by what they are, so neither library has to be present.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

TEXT = "problem"
IDENTIFIER = ("id", "id_")


def question(given: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, Any]:
    """Id and statement among the arguments of `predict`, as they came; "" where one is missing.

    They come as two values, as one frame that holds both, or by name; over the wire, names have no order. A
    csv that still has its answers sends a third value. Without names the id is first, the statement second.
    """
    values: list[tuple[str, Any]] = [(str(getattr(item, "name", None)), item) for item in given]
    values += named.items()
    if len(values) == 1 and len(getattr(values[0][1], "columns", ())) > 1:
        frame = values[0][1]
        values = [(str(name), frame[name]) for name in frame.columns]
    names = [name for name, _ in values]
    at = next((names.index(name) for name in IDENTIFIER if name in names), -1)
    text = names.index(TEXT) if TEXT in names else -1
    if at < 0:
        at = next((index for index in range(len(values)) if index != text), -1)
    if text < 0:
        text = next((index for index in range(len(values)) if index != at), -1)
    return values[at][1] if at >= 0 else "", values[text][1] if text >= 0 else ""


def single_value(value: Any) -> Any:
    """The one value inside a scalar, a Series, a DataFrame, an array or a list of length one (or more)."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    to_dicts = getattr(value, "to_dicts", None)  # a polars DataFrame
    if callable(to_dicts):
        return next(iter(to_dicts()[0].values()))
    iloc = getattr(value, "iloc", None)  # a pandas Series or DataFrame
    if iloc is not None:
        return single_value(iloc[0])
    tolist = getattr(value, "to_list", None) or getattr(
        value, "tolist", None
    )  # Series, arrays, numpy scalars
    if callable(tolist):
        value = tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return single_value(value[0])
    return value


def answer_frame(identifier: Any, answer: int) -> Any:
    """A one-row frame with columns `id` and `answer` (64-bit integer): polars, else pandas.

    The id goes back as it came where it is text, a number that a column of 64 bits holds, or a truth value:
    a gateway may compare it (that of AIMO 2 ends the run over another one). Anything else goes back as text,
    null too: newer gateways end the run over a null in any column.
    """
    integer = isinstance(identifier, int) and -(2**63) <= identifier < 2**63
    # NaN is no id, and pandas calls it null.
    number = isinstance(identifier, float) and not math.isnan(identifier)
    if not (integer or number):
        # A lone surrogate cannot be written to a frame.
        identifier = str(identifier).encode("utf-8", "replace").decode("utf-8")
    try:
        import polars as pl

        return pl.DataFrame({"id": [identifier], "answer": pl.Series([answer], dtype=pl.Int64)})
    # Missing, of another machine's build, or a panic of its Rust, which is no Exception.
    except BaseException:  # noqa: BLE001
        import pandas as pd

        return pd.DataFrame({"id": [identifier], "answer": pd.Series([answer], dtype="int64")})

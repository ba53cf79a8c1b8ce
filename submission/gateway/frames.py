"""What goes over the gateway: single values in, one-row frames out, in polars or pandas.

Gateways have sent scalars, Series and DataFrames of either library; all of them are read by what they can
do, not by what they are, so neither library has to be present.
"""

from collections.abc import Sequence
from typing import Any


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

    The id goes back as it came where it is text or a 64-bit integer: a gateway may compare it. Anything
    else goes back as text, since no frame holds it.
    """
    if isinstance(identifier, bool) or not isinstance(identifier, int) or not -(2**63) <= identifier < 2**63:
        # A lone surrogate cannot be written to a frame.
        identifier = str(identifier).encode("utf-8", "replace").decode("utf-8")
    try:
        import polars as pl

        return pl.DataFrame({"id": [identifier], "answer": pl.Series([answer], dtype=pl.Int64)})
    except ImportError:
        import pandas as pd

        return pd.DataFrame({"id": [identifier], "answer": pd.Series([answer], dtype="int64")})

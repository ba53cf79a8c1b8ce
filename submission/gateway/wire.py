"""What the rehearsal sends over gRPC: frames as Arrow IPC, plain values as JSON, nothing pickled."""

import io
import json
from typing import Any

POLARS, PANDAS, PLAIN = b"L", b"A", b"J"


def pack(value: Any) -> bytes:
    """Serialize a reply or an argument. Raises TypeError for what the real gateway could not take either."""
    module = type(value).__module__.split(".")[0]
    if module == "polars":
        import polars as pl

        frame = value if isinstance(value, pl.DataFrame) else pl.DataFrame(value)
        return POLARS + _arrow(frame)
    if module == "pandas":
        import polars as pl

        return PANDAS + _arrow(pl.from_pandas(value))
    if module == "numpy" and hasattr(value, "item"):
        value = value.item()
    return PLAIN + json.dumps(value, allow_nan=True).encode("ascii")


def unpack(data: bytes) -> Any:
    """The frame (always polars) or the plain value that `pack` was given."""
    kind, body = data[:1], data[1:]
    if kind in (POLARS, PANDAS):
        import polars as pl

        return pl.read_ipc_stream(io.BytesIO(body))
    if kind == PLAIN:
        return json.loads(body)
    raise ValueError(f"not a rehearsal message: it begins with {kind!r}")


def _arrow(frame: Any) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer)
    return buffer.getvalue()

"""Cached teacher log-probabilities: the k likeliest tokens of every position, 280 bytes a token at k = 64.

One token's entry, little-endian: k low 16 bits of ids, k packed pairs of high bits (so ids < 2^18), k 16-bit
codes of log-probabilities, and for each listed temperature T the float32 log mass of all other tokens under
softmax(z / T). That is 4.25 k + 4 n_T bytes: 280 for k = 64 and two temperatures.

A code c stands for the log-probability -64 (c / 65535)^2 at T = 1. The square spends the codes where the
probability is: the error is at most 1.22e-4 sqrt(-l) nats for a log-probability l (9e-6 at p = 0.995, 1.2e-4
at p = 0.37, 9.8e-4 at worst), hence, by Jensen, at most 1.22e-4 sqrt(H) on average over a distribution of
entropy H. What lies below -64 is stored as -64.

At a listed T the rows are exact but for that error and its mean over the top k (they share a normaliser),
both over T: within the top k, probabilities at T depend on the differences of log-probabilities over T alone,
and their sum is one minus the stored tail. So a row always sums to one, and a tail of 1e-9 is not lost to the
rounding of its neighbours. Another T has no tail, and is refused.

The file: magic, version, JSON header, entries, index of rows (u64), SHA-256 of all before it, magic. Entries
have a fixed size, so a row is read through a memory map without touching the others. Nothing is pickled.
Time and disk: linear in tokens. Memory: the index and one row.
"""

import contextlib
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from submission.files import atomic_writer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"AIMOTOPK"
VERSION = 1
MAX_VOCABULARY = 1 << 18
FLOOR = -64.0
_CODES = 65535
_START = struct.Struct("<8sII")  # magic, version, bytes of the header
_END = struct.Struct("<QQ32s8s")  # rows, tokens, SHA-256 of all before it, magic
_MAX_HEADER = 1 << 20


class TopKHeader(BaseModel):
    """What a file of cached log-probabilities is about."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    vocab_size: int = Field(ge=1)
    """Width of the teacher's logits, padding rows included."""
    k: int = Field(ge=1)
    temperatures: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, strict=False)]
    tokenizer: str = Field(pattern=r"^[0-9a-f]{64}$")
    """From `vocabulary_digest`: a student needs the same one."""
    teacher: str
    content: str = ""
    """SHA-256 over the token ids of the rows: tells whether the file is of these very completions."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.vocab_size > MAX_VOCABULARY:
            raise ValueError(
                f"vocab_size {self.vocab_size} of teacher {self.teacher!r} is over {MAX_VOCABULARY} (2^18): "
                "top-k files keep 18 bits an id; distil online from this teacher"
            )
        if self.k > self.vocab_size:
            raise ValueError(f"k {self.k} is more than the vocabulary's {self.vocab_size} tokens")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures {self.temperatures} name one twice")
        return self

    @property
    def entry_bytes(self) -> int:
        """Bytes of one token."""
        return 4 * self.k + (self.k + 3) // 4 + 4 * len(self.temperatures)


@dataclass(frozen=True)
class TopKRow:
    """One completion under softmax(z / T): N tokens, the k likeliest at each, most likely first.

    Args:
        ids: int64 [N, k].
        logprobs: float32 [N, k], nats.
        tail_logprob: float32 [N], log of the probability of all other tokens together (-inf: none).
    """

    ids: "NDArray[np.int64]"
    logprobs: "NDArray[np.float32]"
    tail_logprob: "NDArray[np.float32]"


def vocabulary_digest(vocabulary: Mapping[str, int]) -> str:
    """SHA-256 of a tokenizer's `get_vocab()`, whatever files it came from."""
    items = json.dumps(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])))
    return hashlib.sha256(items.encode("ascii")).hexdigest()


class TopKWriter:
    """Writes a file atomically: it appears under its name when the block ends without an exception."""

    def __init__(self, path: Path, header: TopKHeader) -> None:
        self.header = header
        self._stack = contextlib.ExitStack()
        self._path = Path(path)
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._offsets = [0]

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(atomic_writer(self._path))
        text = self.header.model_dump_json().encode()
        text += b" " * (-(_START.size + len(text)) % 8)
        self._write(_START.pack(MAGIC, VERSION, len(text)) + text)
        return self

    def append(
        self,
        ids: "NDArray[np.integer[Any]]",
        logprobs: "NDArray[np.floating[Any]]",
        tail_logprobs: "NDArray[np.floating[Any]]",
    ) -> int:
        """Add one completion; returns its row number.

        Args:
            ids: [N, k], the k likeliest tokens of each position.
            logprobs: [N, k], at temperature 1, descending along k.
            tail_logprobs: [N, temperatures], log mass of all other tokens under softmax(z / T).

        Raises:
            ValueError: a wrong shape, an id outside the vocabulary or twice in a position, a log-probability
                that is NaN, positive or out of order.
        """
        import numpy as np

        entries = _encode(np.asarray(ids), np.asarray(logprobs), np.asarray(tail_logprobs), self.header)
        self._write(entries.tobytes())
        self._offsets.append(self._offsets[-1] + len(entries))
        return len(self._offsets) - 2

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "use the writer in a with block"
        self._hash.update(data)
        self._file.write(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._write(struct.pack(f"<{len(self._offsets)}Q", *self._offsets))
            rows, tokens = len(self._offsets) - 1, self._offsets[-1]
            assert self._file is not None
            self._file.write(_END.pack(rows, tokens, self._hash.digest(), MAGIC))
        self._stack.__exit__(kind, error, traceback)


class TopKReader:
    """Opens a file and checks its lengths; rows are read when they are asked for.

    Raises:
        ValueError: it is missing, foreign, of another version, or cut short; the message names it.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self.header, start = _read_header(self.path, file)
                size = file.seek(0, 2)
                file.seek(max(start, size - _END.size))
                end = file.read()
        except OSError as error:
            raise ValueError(f"top-k file {path} cannot be read: {error.strerror}") from None
        fault = ValueError(f"top-k file {path} is cut short or damaged; remove it and make it again")
        if len(end) != _END.size:
            raise fault
        self.rows, self.tokens, self._digest, magic = _END.unpack(end)
        body = self.tokens * self.header.entry_bytes
        if magic != MAGIC or size != start + body + 8 * (self.rows + 1) + _END.size:
            raise fault
        shape = (self.tokens, self.header.entry_bytes)
        self._entries: NDArray[np.uint8] = (
            np.memmap(self.path, np.uint8, "r", start, shape) if self.tokens else np.zeros(shape, np.uint8)
        )
        with self.path.open("rb") as file:
            file.seek(start + body)
            self._offsets = np.frombuffer(file.read(8 * (self.rows + 1)), "<u8")
        steps = self._offsets[1:] >= self._offsets[:-1]
        if self._offsets[0] != 0 or self._offsets[-1] != self.tokens or not steps.all():
            raise fault

    def __len__(self) -> int:
        return int(self.rows)

    def length(self, index: int) -> int:
        """Tokens of a row."""
        begin, end = self._span(index)
        return end - begin

    def row(self, index: int, temperature: float) -> TopKRow:
        """One completion under softmax(z / temperature).

        Raises:
            ValueError: there is no such row, the temperature is not in the file, or the row is damaged.
        """
        column = self._column(temperature)
        begin, end = self._span(index)
        try:
            return _decode(self._entries[begin:end], self.header, column)
        except ValueError as error:
            raise ValueError(f"top-k file {self.path}, row {index}: {error}") from None

    def verify(self) -> None:
        """Read the whole file and compare its SHA-256; ValueError where a bit has changed."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            left = file.seek(0, 2) - _END.size
            file.seek(0)
            while left and (block := file.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
        if digest.digest() != self._digest:
            raise ValueError(
                f"top-k file {self.path} is damaged (SHA-256 differs); remove it and make it again"
            )

    def _span(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise ValueError(f"top-k file {self.path} has rows 0 to {len(self) - 1}, no row {index}")
        return int(self._offsets[index]), int(self._offsets[index + 1])

    def _column(self, temperature: float) -> int:
        for column, held in enumerate(self.header.temperatures):
            if abs(held - temperature) <= 1e-9 * held:
                return column
        listed = ",".join(f"{value:g}" for value in self.header.temperatures)
        raise ValueError(
            f"top-k file {self.path} has temperatures {listed}, not {temperature:g}; give the "
            f"command that made it, `python -m kit.traces --teacher {self.header.teacher} ...`, once more "
            f"with --top-k {self.header.k} --top-k-temperatures {listed},{temperature:g}: only the "
            "log-probabilities are made again"
        )


def _read_header(path: Path, file: IO[bytes]) -> tuple[TopKHeader, int]:
    first = file.read(_START.size)
    if len(first) < _START.size or not first.startswith(MAGIC):
        raise ValueError(
            f"{path} is not a top-k file of kit.traces (it does not begin with {MAGIC.decode()})"
        )
    _, version, length = _START.unpack(first)
    if version != VERSION:
        raise ValueError(f"top-k file {path} has version {version}; this program reads version {VERSION}")
    text = file.read(length) if length <= _MAX_HEADER else b""
    if len(text) != length:
        raise ValueError(f"top-k file {path} is cut short in its header; remove it and make it again")
    try:
        return TopKHeader.model_validate_json(text), _START.size + length
    except ValidationError as error:
        first_error = error.errors(include_url=False)[0]
        raise ValueError(f"top-k file {path}: header: {first_error['msg']}") from None


def _encode(
    ids: "NDArray[Any]", logprobs: "NDArray[Any]", tails: "NDArray[Any]", header: TopKHeader
) -> "NDArray[np.uint8]":
    import numpy as np

    count, k = len(ids), header.k
    wanted = ((count, k), (count, k), (count, len(header.temperatures)))
    if (ids.shape, logprobs.shape, tails.shape) != wanted:
        raise ValueError(f"shapes {ids.shape}, {logprobs.shape}, {tails.shape} should be {wanted}")
    if not count:
        return np.zeros((0, header.entry_bytes), np.uint8)
    if ids.min() < 0 or ids.max() >= header.vocab_size:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} do not fit vocab_size {header.vocab_size}")
    if (np.diff(np.sort(ids, axis=1), axis=1) == 0).any():
        raise ValueError("a position names one id twice")
    values = logprobs.astype(np.float64)
    if np.isnan(values).any() or values.max() > 1e-4 or (np.diff(values, axis=1) > 0).any():
        raise ValueError("log-probabilities must be at most 0 and descend along k, without NaN")
    if np.isnan(tails).any() or tails.max() >= 0:
        raise ValueError("tail log-probabilities must be below 0, without NaN")
    codes = np.rint(np.sqrt(np.clip(values, FLOOR, 0.0) / FLOOR) * _CODES).astype("<u2")
    padded = np.zeros((count, -(-k // 4) * 4), np.uint8)
    padded[:, :k] = ids >> 16
    packed = (padded.reshape(count, len(padded[0]) // 4, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(
        axis=2, dtype=np.uint8
    )
    parts = [(ids & 0xFFFF).astype("<u2"), packed, codes, tails.astype("<f4")]
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], axis=1)


def _decode(entries: "NDArray[np.uint8]", header: TopKHeader, column: int) -> TopKRow:
    import numpy as np

    k, width = header.k, (header.k + 3) // 4
    low, high, codes, tails = np.split(np.array(entries), np.cumsum([2 * k, width, 2 * k]), axis=1)
    ids = np.ascontiguousarray(low).view("<u2").astype(np.int64)
    pairs = (high[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    ids |= pairs.reshape(len(entries), 4 * width)[:, :k].astype(np.int64) << 16
    tail = np.ascontiguousarray(tails).view("<f4")[:, column].astype(np.float32)
    if ids.size and (ids.max() >= header.vocab_size or not (tail < 0).all()):
        raise ValueError("an id or a tail is out of range: the file is damaged; remove it and make it again")
    scaled = FLOOR * (np.ascontiguousarray(codes).view("<u2") / _CODES) ** 2 / header.temperatures[column]
    # Descending, so the first is the largest: subtracting it keeps exp() within range.
    scaled -= scaled[:, :1]
    within = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    mass = np.log(-np.expm1(tail.astype(np.float64)))
    return TopKRow(ids, (within + mass[:, None]).astype(np.float32), tail)

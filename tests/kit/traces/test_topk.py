"""The file of cached log-probabilities: exact where it says so, small, and hard to misread."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kit.traces.topk import TopKHeader, TopKReader, TopKWriter, vocabulary_digest

TOKENIZER = "ab" * 32
Rows = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def header(vocab_size: int = 1000, k: int = 4, temperatures: tuple[float, ...] = (1.0, 2.0)) -> TopKHeader:
    return TopKHeader(
        vocab_size=vocab_size, k=k, temperatures=temperatures, tokenizer=TOKENIZER, teacher="teacher"
    )


def tempered(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    scaled = logits / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(-1, keepdims=True)))


def top_of(logits: NDArray[np.float64], head: TopKHeader) -> Rows:
    """What the writer wants, from logits [N, V] in float64."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    ids, rest = order[:, : head.k], order[:, head.k :]
    tails = []
    for temperature in head.temperatures:
        logprobs = np.take_along_axis(tempered(logits, temperature), rest, -1)
        with np.errstate(divide="ignore"):
            tails.append(np.log(np.exp(logprobs).sum(-1)))
    return ids, np.take_along_axis(tempered(logits, 1.0), ids, -1), np.stack(tails, -1)


def write(path: Path, head: TopKHeader, rows: list[Rows]) -> Path:
    with TopKWriter(path, head) as writer:
        for number, row in enumerate(rows):
            assert writer.append(*row) == number
    return path


def random_logits(seed: int, count: int, vocab: int, scale: float) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, vocab)) * scale


@settings(max_examples=25, deadline=None)
@example(
    seed=0, count=1, vocab=95, scale=0.1875, temperature=1.0, share=0.06
)  # a top k of a tenth of the mass
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 5),
    vocab=st.integers(2, 300),
    scale=st.floats(0, 8),
    temperature=st.floats(0.3, 8),
    share=st.floats(0, 1),
)
def test_round_trip_within_the_stated_error(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    vocab: int,
    scale: float,
    temperature: float,
    share: float,
) -> None:
    k = 1 + int(share * (vocab - 1))
    head = header(vocab, k, (1.0, temperature) if temperature != 1 else (1.0,))
    logits = random_logits(seed, count, vocab, scale)
    ids, logprobs, tails = top_of(logits, head)
    reader = TopKReader(write(tmp_path_factory.mktemp("t") / "x.topk", head, [(ids, logprobs, tails)]))
    for column, held in enumerate(head.temperatures):
        row = reader.row(0, held)
        assert (row.ids == ids).all()
        assert row.ids.dtype == np.int64 and row.logprobs.dtype == np.float32
        expected = np.take_along_axis(tempered(logits, held), ids, -1)
        # The code's own error, and that of the normaliser: its mean within the top k. Both over T.
        error = 1.23e-4 * np.sqrt(np.maximum(-logprobs, 0)) + 1e-8
        within = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
        shared = (within * error).sum(-1, keepdims=True)
        assert (np.abs(row.logprobs - expected) <= (error + shared) / held + 4e-6 * (1 - expected)).all()
        assert row.tail_logprob == pytest.approx(tails[:, column], rel=1e-6)
        total = np.exp(row.logprobs.astype(np.float64)).sum(-1) + np.exp(row.tail_logprob.astype(np.float64))
        assert total == pytest.approx(np.ones(count), abs=1e-5)


def test_a_tail_far_below_the_rounding_of_its_neighbours_is_kept(tmp_path: Path) -> None:
    """1 - p of the top token is 3e-9: from rounded log-probabilities it could not be had."""
    head = header(vocab_size=11, k=1)
    logits = np.zeros((1, 11))
    logits[0, 7] = 22.0
    reader = TopKReader(write(tmp_path / "x.topk", head, [top_of(logits, head)]))
    assert reader.row(0, 1.0).tail_logprob[0] == pytest.approx(math.log(10) - 22, abs=1e-5)
    assert reader.row(0, 2.0).tail_logprob[0] == pytest.approx(
        math.log(10) - 11 - math.log1p(10 * math.exp(-11)), abs=1e-5
    )


def test_300_bytes_a_token_at_k_64(tmp_path: Path) -> None:
    head = header(vocab_size=152_064, k=64)
    assert head.entry_bytes == 280
    rows = [top_of(random_logits(seed, 10, 152_064, 3.0), head) for seed in range(2)]
    path = write(tmp_path / "x.topk", head, rows)
    assert path.stat().st_size / 20 <= 300
    row = TopKReader(path).row(1, 2.0)
    assert (row.ids == rows[1][0]).all()
    assert row.ids.max() > 1 << 17  # both high bits are in use


def test_rows_of_different_length_are_read_on_their_own(tmp_path: Path) -> None:
    head = header()
    rows = [top_of(random_logits(count, count, 1000, 2.0), head) for count in (3, 0, 5)]
    reader = TopKReader(write(tmp_path / "x.topk", head, rows))
    assert len(reader) == 3
    assert [reader.length(index) for index in range(3)] == [3, 0, 5]
    assert reader.header == head
    for index, (ids, _, _) in enumerate(rows):
        assert (reader.row(index, 1.0).ids == ids).all()
    reader.verify()
    for index in (-1, 3):
        with pytest.raises(ValueError, match=f"rows 0 to 2, no row {index}"):
            reader.row(index, 1.0)


def test_a_file_without_rows(tmp_path: Path) -> None:
    reader = TopKReader(write(tmp_path / "x.topk", header(), []))
    assert len(reader) == 0
    reader.verify()


def test_what_lies_below_the_floor_is_stored_as_the_floor(tmp_path: Path) -> None:
    head = header(vocab_size=3, k=3, temperatures=(1.0,))
    logits = np.array([[0.0, -90.0, -math.inf]])
    reader = TopKReader(write(tmp_path / "x.topk", head, [top_of(logits, head)]))
    row = reader.row(0, 1.0)
    assert row.logprobs[0] == pytest.approx([0.0, -64.0, -64.0])
    assert row.tail_logprob[0] == -math.inf


def test_another_temperature_is_refused_and_the_way_to_it_told(tmp_path: Path) -> None:
    reader = TopKReader(
        write(tmp_path / "x.topk", header(), [top_of(random_logits(0, 1, 1000, 1.0), header())])
    )
    with pytest.raises(
        ValueError, match=r"temperatures 1,2, not 1\.5.*--top-k 4 --top-k-temperatures 1,2,1\.5"
    ):
        reader.row(0, 1.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 2**18 + 1}, "vocab_size 262145 .*over 262144"),
        ({"k": 1001}, "k 1001 is more than"),
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (1.0, 1.0)}, "twice"),
        ({"temperatures": (0.0,)}, "temperatures"),
        ({"tokenizer": "x"}, "tokenizer"),
    ],
)
def test_impossible_headers_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopKHeader(**{**header().model_dump(), **fields})


def test_the_largest_vocabulary_fits(tmp_path: Path) -> None:
    head = header(vocab_size=2**18, k=2, temperatures=(1.0,))
    ids = np.array([[2**18 - 1, 0], [2**16, 2**16 - 1]])
    rows = (ids, np.log([[0.5, 0.25], [0.9, 0.05]]), np.log([[0.25], [0.05]]))
    row = TopKReader(write(tmp_path / "x.topk", head, [rows])).row(0, 1.0)
    assert (row.ids == ids).all()
    assert np.exp(row.logprobs) == pytest.approx(np.exp(rows[1]), abs=2e-4)


BAD_ROWS = {
    "shapes": ([[1, 2, 3]], [[-1, -2, -3]], [[-1, -1]]),
    "ids from 1 to 1000": ([[1, 2, 3, 1000]], [[-1, -2, -3, -4]], [[-1, -1]]),
    "ids from -1": ([[1, 2, 3, -1]], [[-1, -2, -3, -4]], [[-1, -1]]),
    "names one id twice": ([[1, 2, 3, 1]], [[-1, -2, -3, -4]], [[-1, -1]]),
    "descend": ([[1, 2, 3, 4]], [[-2, -1, -3, -4]], [[-1, -1]]),
    "without NaN": ([[1, 2, 3, 4]], [[-1, -2, -3, math.nan]], [[-1, -1]]),
    "at most 0": ([[1, 2, 3, 4]], [[0.5, -2, -3, -4]], [[-1, -1]]),
    "tail": ([[1, 2, 3, 4]], [[-1, -2, -3, -4]], [[-1, 0]]),
    "tail .*without NaN": ([[1, 2, 3, 4]], [[-1, -2, -3, -4]], [[-1, math.nan]]),
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_bad_rows_are_refused_and_nothing_is_left(tmp_path: Path, message: str) -> None:
    ids, logprobs, tails = (np.array(part, dtype=float) for part in BAD_ROWS[message])
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "x.topk", header(), [(ids.astype(np.int64), logprobs, tails)])
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "x.topk", header(), [])
    before = path.read_bytes()
    with pytest.raises(RuntimeError), TopKWriter(path, header()) as writer:
        writer.append(*top_of(random_logits(0, 2, 1000, 1.0), header()))
        raise RuntimeError
    assert path.read_bytes() == before


def test_every_way_of_cutting_a_file_is_seen(tmp_path: Path) -> None:
    whole = write(
        tmp_path / "x.topk", header(), [top_of(random_logits(0, 2, 1000, 1.0), header())]
    ).read_bytes()
    path = tmp_path / "cut.topk"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.topk"):
            TopKReader(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="cut short or damaged"):
        TopKReader(path)


def test_every_changed_byte_is_seen_by_verify_or_before(tmp_path: Path) -> None:
    whole = write(
        tmp_path / "x.topk", header(), [top_of(random_logits(0, 2, 1000, 1.0), header())]
    ).read_bytes()
    path = tmp_path / "changed.topk"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"changed\.topk"):
            TopKReader(path).verify()


def test_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.topk"
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        TopKReader(path)
    path.write_bytes(b"\x93NUMPY" + bytes(100))
    with pytest.raises(ValueError, match="is not a top-k file"):
        TopKReader(path)
    path.write_bytes(struct.pack("<8sII", b"AIMOTOPK", 2, 0))
    with pytest.raises(ValueError, match="version 2; this program reads version 1"):
        TopKReader(path)
    path.write_bytes(struct.pack("<8sII", b"AIMOTOPK", 1, 2**32 - 1))
    with pytest.raises(ValueError, match="cut short in its header"):
        TopKReader(path)
    path.write_bytes(struct.pack("<8sII", b"AIMOTOPK", 1, 8) + b"[1, 2]  ")
    with pytest.raises(ValueError, match="header"):
        TopKReader(path)


def test_an_id_outside_the_vocabulary_never_gets_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.topk", header(), [top_of(random_logits(0, 1, 1000, 1.0), header())])
    data = bytearray(path.read_bytes())
    at = len(data) - 56 - 16 - header().entry_bytes
    data[at : at + 2] = b"\xff\xff"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="row 0: an id or a tail is out of range"):
        TopKReader(path).row(0, 1.0)


def test_the_digest_is_of_the_vocabulary_alone() -> None:
    assert vocabulary_digest({"a": 0, "b": 1}) == vocabulary_digest({"b": 1, "a": 0})
    assert vocabulary_digest({"a": 0, "b": 1}) != vocabulary_digest({"a": 1, "b": 0})

"""Parts of the sandbox by themselves: cut output, folders, system call numbers, messages in pieces."""

import os
import platform
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.frames import ClosedError, Parser, encode
from submission.sandbox import scratch, seccomp
from submission.sandbox.output import Clip, clip_text

HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@given(pieces=st.lists(st.binary(max_size=30)), head=st.integers(0, 20), tail=st.integers(1, 20))
def test_a_clip_keeps_both_ends_however_they_come(pieces: list[bytes], head: int, tail: int) -> None:
    clip = Clip(head, tail)
    for piece in pieces:
        clip.add(piece)
    whole = b"".join(pieces)
    if len(whole) <= head + tail:
        assert clip.text() == whole.decode("utf-8", "replace")
        return
    first, last = (part.decode("utf-8", "replace") for part in (whole[:head], whole[-tail:]))
    assert clip.text() == f"{first}\n[... {len(whole) - head - tail} bytes left out ...]\n{last}"


def test_a_clip_counts_what_others_left_out() -> None:
    clip = Clip(2, 2)
    clip.add(b"abcd")
    clip.skip(5)
    clip.add(b"yz")
    assert clip.text() == "ab\n[... 7 bytes left out ...]\nyz"  # c, d and the five


def test_text_is_clipped_in_the_middle() -> None:
    assert clip_text("abcdef", 6) == "abcdef"
    assert clip_text("abcdefg", 4) == "ab [... 3 characters left out ...] fg"


@given(st.lists(st.dictionaries(st.text(), st.text())), st.integers(1, 9))
def test_messages_come_out_however_they_are_cut(messages: list[dict[str, str]], size: int) -> None:
    data = b"".join(map(encode, messages))
    parser = Parser()
    found = [one for start in range(0, len(data), size) for one in parser.feed(data[start : start + size])]
    assert found == messages


@pytest.mark.parametrize("data", [struct.pack(">I", 101), struct.pack(">I", 2) + b"[]", b"\0\0\0\1x"])
def test_what_is_no_message_closes(data: bytes) -> None:
    with pytest.raises(ClosedError):
        Parser(limit=100).feed(data)


def test_a_folder_goes_with_all_that_is_in_it_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = tmp_path / "folder"
    deep = folder / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(bytes(8192))
    (folder / "link").symlink_to(outside)
    (deep / "link").symlink_to(outside)
    os.mkfifo(deep / "pipe")
    used = scratch.usage(folder)
    assert used is not None
    assert 8192 <= used < 65_536
    assert not scratch.remove_small(folder)
    deep.chmod(0)
    scratch.remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").read_text() == "kept"


def test_too_many_entries_are_not_counted(tmp_path: Path) -> None:
    for number in range(scratch.MAX_ENTRIES + 1):
        (tmp_path / str(number)).touch()
    assert scratch.usage(tmp_path) is None


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_the_kernels(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip(f"no {HEADERS[column]} on this {platform.machine()}")
    text = HEADERS[column].read_text()
    numbers = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    known = {name: pair[column] for name, pair in {**seccomp.REFUSED, **seccomp.CHECKED}.items()}
    checked = {name: number for name, number in known.items() if name in numbers}
    assert len(checked) > 70
    assert checked == {name: numbers[name] for name in checked}

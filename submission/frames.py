"""JSON messages over two pipe ends, each after its length, with a deadline for every read and write."""

import json
import os
import select
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

MAX_REPLY = 65_536
"""Bytes of an answer at most; the question may be longer, since it comes from our own side."""
_LENGTH = struct.Struct(">I")
_SLICE = 0.2
"""Seconds between two looks at whether the other side's owner is still there."""
_LONGEST = 1e5
"""Seconds of one poll at most: the kernel counts milliseconds in 32 bits."""


class ClosedError(Exception):
    """The other end is closed, or what came from it is no message."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One message as bytes; text may hold anything, lone surrogates too."""
    body = json.dumps(message).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def decode(data: bytes) -> dict[str, Any] | None:
    """The message that these bytes are, from the first to the last, or None."""
    if len(data) < _LENGTH.size or _LENGTH.unpack_from(data)[0] != len(data) - _LENGTH.size:
        return None
    try:
        message = json.loads(data[_LENGTH.size :])
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


class Channel:
    """Both directions of a talk between two processes; owns the two file descriptors.

    Args:
        source: descriptor to read from.
        sink: descriptor to write to.
        limit: bytes of an incoming message at most; None trusts the other side.
        watch: called about five times a second while waiting; what it raises ends the wait.
    """

    def __init__(
        self, source: int, sink: int, limit: int | None = None, watch: Callable[[], None] | None = None
    ) -> None:
        self._source = source
        self._sink = sink
        self._limit = limit
        self._watch = watch
        os.set_blocking(source, False)
        os.set_blocking(sink, False)

    def send(self, message: Mapping[str, Any], deadline: float = float("inf")) -> None:
        """Write a message whole.

        Args:
            message: anything that JSON knows.
            deadline: of `time.monotonic`.

        Raises:
            TimeoutError: the other side does not read.
            ClosedError: it is gone.
        """
        data = memoryview(encode(message))
        while data:
            self._wait(self._sink, select.POLLOUT, deadline)
            try:
                data = data[os.write(self._sink, data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ClosedError from None

    def receive(self, deadline: float = float("inf")) -> dict[str, Any]:
        """Read a message whole. Raises as `send` does; ClosedError also where it is too long or no JSON."""
        head = self._read(_LENGTH.size, deadline)
        size = _LENGTH.unpack(head)[0]
        if self._limit is not None and size > self._limit:
            raise ClosedError
        message = decode(head + self._read(size, deadline))
        if message is None:
            raise ClosedError
        return message

    def close(self) -> None:
        """Close both descriptors."""
        for descriptor in {self._source, self._sink}:
            os.close(descriptor)

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._source, select.POLLIN, deadline)
            try:
                chunk = os.read(self._source, min(size - len(data), 1 << 20))
            except BlockingIOError:
                continue
            except OSError:
                raise ClosedError from None
            if not chunk:
                raise ClosedError
            data += chunk
        return bytes(data)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(descriptor, event)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            slice_ = min(left, _SLICE) if self._watch else min(left, _LONGEST)
            if poller.poll(max(1, int(slice_ * 1000))):
                return
            if self._watch:
                self._watch()


class Parser:
    """Messages out of bytes that come in pieces, for a loop that never waits on one sender.

    Args:
        limit: bytes of a message at most; None trusts the other side.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that these bytes complete; ClosedError where they are none, or too long."""
        self._data += data
        found = []
        while len(self._data) >= _LENGTH.size:
            size = _LENGTH.unpack_from(self._data)[0]
            if self._limit is not None and size > self._limit:
                raise ClosedError
            end = _LENGTH.size + size
            if len(self._data) < end:
                break
            message = decode(bytes(self._data[:end]))
            if message is None:
                raise ClosedError
            found.append(message)
            del self._data[:end]
        return found

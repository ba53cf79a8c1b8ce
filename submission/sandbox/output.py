"""What a call prints, cut while it prints: the beginning and the end are kept, the middle is counted."""

import io
import os


class Clip:
    """The first and the last bytes of a stream of any length.

    Args:
        head: bytes to keep from the beginning.
        tail: bytes to keep from the end; more than 0.
    """

    def __init__(self, head: int, tail: int) -> None:
        self._head_limit = head
        self._tail_limit = tail
        self.clear()

    def clear(self) -> None:
        """Start anew."""
        self._head = bytearray()
        self._tail = bytearray()
        self._skipped = 0

    def add(self, data: bytes | memoryview) -> None:
        """Take the stream's next bytes."""
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) > self._tail_limit:
            self._skipped += len(self._tail) + len(data) - self._tail_limit
            self._tail = bytearray(data[-self._tail_limit :])
            return
        self._tail += data
        over = len(self._tail) - self._tail_limit
        if over > 0:
            self._skipped += over
            del self._tail[:over]

    def skip(self, count: int) -> None:
        """Count bytes that were left out by another hand before the next ones."""
        if count > 0:
            self._skipped += len(self._tail) + count
            self._tail.clear()

    def take(self) -> tuple[int, bytes]:
        """(bytes left out, the last ones kept), for another `Clip`; start anew."""
        taken = self._skipped, bytes(self._tail)
        self.clear()
        return taken

    def text(self) -> str:
        """Both ends, with a mark between them where something is left out."""
        head = self._head.decode("utf-8", "replace")
        if not self._skipped:
            return (self._head + self._tail).decode("utf-8", "replace")
        tail = self._tail.decode("utf-8", "replace")
        return f"{head}\n[... {self._skipped} bytes left out ...]\n{tail}"


def clip_text(text: str, limit: int) -> str:
    """A long text's two ends with a mark between them."""
    if len(text) <= limit:
        return text
    head = limit // 2
    tail = limit - head
    return f"{text[:head]} [... {len(text) - limit} characters left out ...] {text[-tail:]}"


class CutStream(io.RawIOBase):
    """The raw stream behind a worker's `sys.stdout` and `sys.stderr`.

    The first bytes of a call go through to the descriptor at once, so that they are known even of a call
    that never returns. Of the rest only the end is kept, in memory, for the reply.

    Args:
        descriptor: written to.
        limit: bytes that go through.
        tail: bytes kept of the rest.
    """

    def __init__(self, descriptor: int, limit: int, tail: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._limit = limit
        self._left = limit
        self._rest = Clip(0, tail)

    def writable(self) -> bool:
        """It is; what `io` asks."""
        return True

    def fileno(self) -> int:
        """The descriptor behind it."""
        return self._descriptor

    def close(self) -> None:
        """Stays open: a cell that closes its `sys.stdout` would silence the ones after it."""

    def write(self, data: object) -> int:
        """Take bytes; never fails for their number."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        through, rest = view[: self._left], view[self._left :]
        self._left -= len(through)
        while through:
            through = through[os.write(self._descriptor, through) :]
        if rest:
            self._rest.add(rest)
        return len(view)

    def end_call(self) -> tuple[int, bytes]:
        """(bytes left out, the end that follows them) of what did not go through; ready for the next call."""
        self._left = self._limit
        return self._rest.take()

"""How a trainer and a served engine talk: JSON messages after their length and an authentication code.

Both sides prove that they know a common secret before anything else is read (HMAC-SHA256 over both sides'
random challenges and the side's name, compared in constant time); every later message carries a code over its
direction, number and bytes under a key of this connection alone, so none can be forged, replayed, reflected,
dropped or put elsewhere. Nothing is encrypted. Before the proof a message has `GREETING_BYTES` at most.
"""

import asyncio
import hmac
import os
import secrets
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from submission.frames import ClosedError, decode, encode

SECRET = "AIMO_GRPO_SECRET"  # noqa: S105 - the variable's name
"""Environment variable with the secret, where no file holds it."""
SHORTEST_SECRET = 16
GREETING_BYTES = 4_096
MESSAGE_BYTES = 64 << 20
"""Of a message at most: a completion of 100,000 tokens takes about 5 MB."""
VERSION = 1
_LENGTH = 4
_CODE = 32
# A machine that is switched off, or cut off, says nothing: known after about 40 seconds.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_UNREAD_MS = 40_000

Side = Literal["trainer", "server"]


class RefusedError(Exception):
    """The other side is not whom it should be, or says why it refuses."""


class Wire:
    """One end of an authenticated connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._key = b""
        self._sent = self._received = 0
        self._directions = (b"", b"")
        plug: socket.socket = writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        for option, value in _KEEPALIVE:
            plug.setsockopt(socket.IPPROTO_TCP, option, value)

    @property
    def here(self) -> str:
        """This side's address, as the other reaches it."""
        return str(self._writer.get_extra_info("sockname")[0])

    @property
    def there(self) -> str:
        """The other side's address."""
        return str(self._writer.get_extra_info("peername")[0])

    async def prove(self, side: Side, secret: bytes) -> None:
        """Greet: both sides prove that they know the secret, the trainer first.

        Raises:
            RefusedError: the other does not know it, or is no such program.
            ClosedError: it went away.
        """
        mine = secrets.token_hex(16)
        await self.send({"aimo-grpo": VERSION, "challenge": mine})
        said = await self.receive(GREETING_BYTES)
        theirs = said.get("challenge")
        if said.get("aimo-grpo") != VERSION or not isinstance(theirs, str) or len(theirs) != len(mine):
            raise RefusedError(f"it does not speak version {VERSION} of this protocol")
        challenges = f"{mine} {theirs}" if side == "trainer" else f"{theirs} {mine}"

        def code(purpose: str) -> bytes:
            return hmac.digest(secret, f"aimo-grpo {purpose} {challenges}".encode(), "sha256")

        async def expect(other: Side) -> None:
            proof = (await self.receive(GREETING_BYTES)).get("proof")
            if not isinstance(proof, str) or not hmac.compare_digest(
                proof.encode("utf-8", "replace"), code(other).hex().encode()
            ):
                raise RefusedError("the secret there is another")

        if side == "trainer":
            await self.send({"proof": code("trainer").hex()})
            await expect("server")
        else:
            try:
                await expect("trainer")
            except RefusedError:
                await self.send({"proof": ""})
                raise
            await self.send({"proof": code("server").hex()})
        self._key = code("messages")
        ours, others = b"trainer", b"server"
        self._directions = (ours, others) if side == "trainer" else (others, ours)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Write a message whole. Raises ClosedError, and ValueError where it is too long."""
        self.post(message)
        try:
            await self._writer.drain()
        except OSError:
            raise ClosedError from None

    def post(self, message: Mapping[str, Any]) -> None:
        """The same without waiting until it is on its way; nobody is told where that fails."""
        data = encode(message)
        if len(data) > MESSAGE_BYTES:
            raise ValueError(f"a message of {len(data)} bytes is over {MESSAGE_BYTES}")
        if self._key:
            data += self._code(self._directions[0], self._sent, data)
            self._sent += 1
        self._writer.write(data)

    async def receive(self, limit: int = MESSAGE_BYTES) -> dict[str, Any]:
        """Read a message whole; ClosedError where none comes any more, or what comes is none."""
        try:
            head = await self._reader.readexactly(_LENGTH)
            size = int.from_bytes(head, "big")
            if size > limit:
                raise ClosedError
            data = head + await self._reader.readexactly(size)
            if self._key:
                code = await self._reader.readexactly(_CODE)
                if not hmac.compare_digest(code, self._code(self._directions[1], self._received, data)):
                    raise ClosedError
                self._received += 1
        except (OSError, asyncio.IncompleteReadError):
            raise ClosedError from None
        message = decode(data)
        if message is None:
            raise ClosedError
        return message

    async def close(self) -> None:
        """Hang up; idempotent."""
        self._writer.transport.abort()

    def _code(self, direction: bytes, number: int, data: bytes) -> bytes:
        return hmac.digest(self._key, b"%s %d " % (direction, number) + data, "sha256")


def read_secret(path: str) -> bytes:
    """The secret of a file, or of the environment where `path` is empty; blanks around it are left off.

    Raises:
        ValueError: there is none, it is short, or others can read the file.
    """
    way_out = (
        "make one with `openssl rand -hex 32 > FILE; chmod 600 FILE`, the same on both sides, or give it in "
        f"the environment variable {SECRET}"
    )
    if not path:
        text, where = os.environ.get(SECRET, ""), f"the environment variable {SECRET}"
    else:
        where = f"secret_file {path}"
        file = Path(path)
        try:
            if file.stat().st_mode & stat.S_IROTH:
                raise ValueError(f"{where} can be read by everybody: chmod o-r it")
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where} cannot be read: {error}; {way_out}") from error
    secret = text.strip().encode()
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"{where} holds {len(secret)} bytes of a secret, at least {SHORTEST_SECRET} are needed: {way_out}"
        )
    return secret

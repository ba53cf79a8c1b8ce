"""The wire between trainer and served engine: who is understood, who is not, what else ends a talk."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.addresses import split_address
from kit.grpo.samplers.wire import MESSAGE_BYTES, RefusedError, Wire, read_secret
from submission.frames import ClosedError, encode

SECRET = b"0123456789abcdef"
OTHER = b"0123456789abcdeg"


# --- the wire ----------------------------------------------------------------------------------------


async def talk(
    trainer: Callable[[Wire], Awaitable[Any]], server: Callable[[Wire], Awaitable[Any]]
) -> tuple[Any, Any]:
    """What became of both ends of a connection."""
    ends: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        ends.set_result((await asyncio.gather(server(wire), return_exceptions=True))[0])
        await wire.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    try:
        said = (await asyncio.gather(trainer(wire), return_exceptions=True))[0]
        return said, await asyncio.wait_for(ends, 5)
    finally:
        await wire.close()
        listener.close()


def test_who_knows_the_secret_is_understood() -> None:
    async def ask(wire: Wire) -> Any:
        await wire.prove("trainer", SECRET)
        for number in range(3):
            await wire.send({"number": number, "text": "\ud800"})
        return [await wire.receive() for _ in range(3)]

    async def answer(wire: Wire) -> Any:
        await wire.prove("server", SECRET)
        got = [await wire.receive() for _ in range(3)]
        for message in got:
            await wire.send(message)
        return got

    said, got = asyncio.run(talk(ask, answer))
    assert said == got == [{"number": number, "text": "\ud800"} for number in range(3)]


def test_another_secret_is_told_on_both_sides() -> None:
    said, got = asyncio.run(
        talk(lambda wire: wire.prove("trainer", OTHER), lambda wire: wire.prove("server", SECRET))
    )
    for error in (said, got):
        assert isinstance(error, RefusedError) and "secret there is another" in str(error)


def test_a_trainer_that_gives_the_servers_own_words_back_is_refused() -> None:
    """Reflection: with equal challenges, a server's proof is not a trainer's."""

    async def mirror(wire: Wire) -> None:
        said = await wire.receive()
        await wire.send(said)
        text = f"aimo-grpo server {said['challenge']} {said['challenge']}"
        await wire.send({"proof": hmac.digest(SECRET, text.encode(), "sha256").hex()})

    _, got = asyncio.run(talk(mirror, lambda wire: wire.prove("server", SECRET)))
    assert isinstance(got, RefusedError)


@pytest.mark.parametrize("change", ["flip", "replay", "forge"])
def test_messages_that_were_changed_replayed_or_forged_end_the_talk(change: str) -> None:
    async def ask(wire: Wire) -> None:
        await wire.prove("trainer", SECRET)
        data = encode({"do": "draw"})
        code = wire._code(b"trainer", 0, data)
        if change == "flip":
            wire._writer.write(data.replace(b"draw", b"drew") + code)
        elif change == "replay":
            wire._writer.write(2 * (data + code))
        else:
            wire._writer.write(data + bytes(32))
        await wire._writer.drain()

    async def answer(wire: Wire) -> Any:
        await wire.prove("server", SECRET)
        if change == "replay":
            assert await wire.receive() == {"do": "draw"}
        return await wire.receive()

    _, got = asyncio.run(talk(ask, answer))
    assert isinstance(got, ClosedError)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\xff\xff", b"\0\0\0\x02[]", b""])
def test_strangers_are_hung_up_on_before_much_is_read(data: bytes) -> None:
    async def shout(wire: Wire) -> None:
        wire._writer.write(data)
        wire._writer.write_eof()
        await asyncio.sleep(0.1)

    _, got = asyncio.run(talk(shout, lambda wire: wire.prove("server", SECRET)))
    assert isinstance(got, ClosedError | RefusedError)


def test_a_message_over_the_limit_is_not_sent() -> None:
    async def ask(wire: Wire) -> None:
        await wire.prove("trainer", SECRET)
        await wire.send({"text": "x" * MESSAGE_BYTES})

    async def answer(wire: Wire) -> None:
        await wire.prove("server", SECRET)

    said, _ = asyncio.run(talk(ask, answer))
    assert isinstance(said, ValueError)


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMO_GRPO_SECRET", " 0123456789abcdef\n")
    assert read_secret("") == SECRET
    monkeypatch.setenv("AIMO_GRPO_SECRET", "short")
    with pytest.raises(ValueError, match="holds 5 bytes of a secret, at least 16"):
        read_secret("")
    file = tmp_path / "secret"
    with pytest.raises(ValueError, match="cannot be read"):
        read_secret(str(file))
    file.write_bytes(SECRET)
    file.chmod(0o644)
    with pytest.raises(ValueError, match="can be read by everybody"):
        read_secret(str(file))
    file.chmod(0o600)
    assert read_secret(str(file)) == SECRET


def test_addresses() -> None:
    assert split_address("node7:7300") == ("node7", 7300)
    assert split_address("[::1]:80") == ("::1", 80)
    for wrong in ("node7", "node7:", ":80", "node7:0", "node7:65536", "node7:\uff180", ""):
        with pytest.raises(ValueError, match=r"is not host:port"):
            split_address(wrong)

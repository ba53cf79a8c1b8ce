"""An engine that `python -m kit.grpo.serve` runs on another machine, or on other cores of this one."""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kit.grpo.addresses import split_address
from kit.grpo.samplers.wire import RefusedError, Wire
from submission.engines.base import EngineError, SampleRequest
from submission.frames import ClosedError

_PAUSE = 0.5


class RemoteHost:
    """See `kit.grpo.samplers.host.Host`. Its errors are EngineErrors that say what became of the server.

    Args:
        address: host:port.
        secret: known to both sides.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self.name = f"server {address}"
        self.dtype = ""
        self.workers: Sequence[dict[str, Any]] = ()
        self.here = self.there = ""
        self.fresh = False
        """Whether it still holds the checkpoint's own weights."""
        self._address, self._secret = address, secret
        self._wire: Wire | None = None
        self._listener: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._lost = ""

    async def start(self, hello: Mapping[str, Any], patience: float) -> None:
        """Connect, and agree on the model; for `patience` seconds while it is not there yet, or busy.

        Args:
            hello: what the trainer expects (`kit.grpo.samplers.server`).

        Raises:
            EngineError: no answer, another secret, another model, or it is busy.
        """
        until = time.monotonic() + patience
        while True:
            left = max(0.1, until - time.monotonic())
            try:
                wire = await self._greeted(hello, left)
            except (OSError, TimeoutError, ClosedError, _BusyError) as error:
                if time.monotonic() + _PAUSE < until:
                    await asyncio.sleep(_PAUSE)
                    continue
                raise EngineError(f"{self.name}: {_reason(error, patience)}") from error
            except RefusedError as error:
                raise EngineError(f"{self.name}: {error}") from error
            break
        self._wire = wire
        self.here, self.there = wire.here, wire.there
        self._listener = asyncio.create_task(self._listen(wire))

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        """See `Host`."""
        answers: list[Any] = await self._ask("call", method=method, arguments=list(arguments))
        return answers

    async def forget(self) -> bool:
        """See `Host`."""
        return bool(await self._ask("forget"))

    async def draw(self, request: SampleRequest) -> dict[str, Any]:
        """See `Host`."""
        row: dict[str, Any] = await self._ask(
            "draw", prompt=list(request.prompt), sampling=asdict(request.sampling)
        )
        return row

    async def progress(self) -> int:
        """See `Host`."""
        return int(await self._ask("progress"))

    async def wake(self) -> None:
        """Nothing: its memory is not the trainer's."""

    async def rest(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Hang up: the server frees itself."""
        self._end(self._lost or "it was hung up on")
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        if self._wire is not None:
            await self._wire.close()

    async def _greeted(self, hello: Mapping[str, Any], seconds: float) -> Wire:
        async with asyncio.timeout(seconds):
            wire = Wire(*await asyncio.open_connection(*split_address(self._address)))
            try:
                await wire.prove("trainer", self._secret)
                await wire.send(hello)
                said = _welcome(await wire.receive())
            except BaseException:
                await wire.close()
                raise
        self.dtype, self.workers, self.fresh = said["dtype"], said["workers"], said["fresh"]
        return wire

    async def _ask(self, what: str, **more: Any) -> Any:
        if self._lost:
            raise EngineError(self._lost)
        assert self._wire is not None, "start() first"
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            await self._wire.send({"do": what, "number": number, **more})
            return await answer
        except asyncio.CancelledError:
            if not self._lost:
                self._wire.post({"do": "abandon", "number": number})
            raise
        except ClosedError:
            raise EngineError(self._lost or "the server died, or cannot be reached any more") from None
        finally:
            del self._open[number]

    async def _listen(self, wire: Wire) -> None:
        """Give each answer to who asked for it."""
        reason = "the server died, or cannot be reached any more"
        try:
            while True:
                said = await wire.receive()
                answer = self._open.get(said.get("number", -1))
                if "ends" in said:
                    reason = f"the server ended: {said['ends']}"
                elif answer is not None and not answer.done():  # else who asked has given up
                    if "error" in said:
                        answer.set_exception(EngineError(str(said["error"])))
                    else:
                        answer.set_result(said.get("value"))
        except ClosedError:
            self._end(reason)

    def _end(self, reason: str) -> None:
        self._lost = reason
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(EngineError(reason))


class _BusyError(Exception):
    """It serves another trainer."""


def _welcome(said: dict[str, Any]) -> dict[str, Any]:
    if "busy" in said:
        raise _BusyError(str(said["busy"]))
    if "refused" in said:
        raise RefusedError(str(said["refused"]))
    return said


def _reason(error: Exception, patience: float) -> str:
    if isinstance(error, _BusyError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"no answer within {patience:g} s"
    if isinstance(error, ClosedError):
        return "it hung up before it said who it is: is another program there?"
    return f"no server there ({error}): start `python -m kit.grpo.serve` on it"

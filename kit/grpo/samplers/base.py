"""What every sampler with engines of its own does, wherever they run: sync, compare, divide, draw.

Rank 0 speaks to the engines; the other ranks are told what they drew. After every sync the checksums of the
trainer's weights and of the engines' live parameters are compared, weight by weight, and the prefix caches
are emptied: their keys and values belong to the old weights. Quantized engines and MLA are refused, since
they compute with something else than the weights that were loaded.

Time of a sync: one pass over the weights for each checksum, and the way that they travel (`Carrier`).
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from kit.grpo.rollout import Completion, Failure, Request, Synced, SyncError
from kit.grpo.samplers.asking import Asking
from kit.grpo.samplers.carrying import Carrier
from kit.grpo.samplers.compare import Sent, pass_by
from kit.grpo.samplers.drawing import unpacked
from kit.grpo.samplers.host import Host
from kit.grpo.samplers.loop import Loop
from kit.training.ranks import Ranks
from submission.engines.base import EngineError, SampleRequest, Sampling

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_ERRORS: dict[str, type[RuntimeError]] = {"sync": SyncError, "engine": EngineError}
_LOOKS = 20
"""How often within the timeout the engines are asked whether they still draw."""


class EngineSampler:
    """See `kit.grpo.rollout.Sampler`. After a sync that failed it draws nothing until another has succeeded.

    A subclass opens its hosts and its carrier on rank 0, and calls `_open` for it.

    Args:
        ranks: who speaks to the engines (rank 0), and who is told.
        timeout: seconds for each answer of an engine during a sync, and for a sign of life while it draws.
            The process group's own timeout must be longer: the other ranks wait in it.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        self._ranks, self._timeout = ranks, timeout
        self._loop: Loop | None = None
        self._hosts: list[Any] = []
        self._carrier: Carrier | None = None
        self._fault = ""
        self._calls = 0

    def sync(self, weights: "Iterator[tuple[str, torch.Tensor]]") -> Synced:
        """Carry the weights over, compare the checksums, forget the prefixes.

        Raises:
            SyncError: a checksum differs, an engine failed or did not answer in time, or the disk is full.
        """
        if not self._ranks.main:
            pass_by(weights)
        return Synced(**self._on_main(lambda: self._carry(weights)))

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
        """Draw all of them together; a request that its engine refuses or loses is a `Failure`.

        Raises:
            EngineError: an engine is dead, or shows no sign of life. SyncError: the last sync failed.
        """
        rows = self._on_main(lambda: self._draw(requests, sampling))
        return [unpacked(row) for row in rows]

    def close(self) -> None:
        """Let go of the engines, and end what was started here; idempotent, and not collective."""
        hosts, self._hosts = self._hosts, []
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()  # vLLM's listener would call the end of its engine an error
            for host in hosts:
                loop.run(host.close())
            loop.close()
        if self._carrier is not None:
            self._carrier.close()

    def _open(self, work: Callable[[], None]) -> None:
        """Work of rank 0 that finds the engines, with a loop to run them in; all is closed if it fails."""

        def opened() -> None:
            self._loop = Loop()
            work()

        try:
            self._on_main(opened)
        except BaseException:
            self.close()
            raise

    def _on_main(self, work: Callable[[], T]) -> T:
        """Work of rank 0 alone. All ranks get its result, which JSON can hold, or raise its error."""
        said: dict[str, Any] = {}
        if self._ranks.main:
            try:
                said = {"value": work()}
            except (SyncError, EngineError) as error:
                said = {"sync" if isinstance(error, SyncError) else "engine": str(error)}
        said = json.loads(self._ranks.share(json.dumps(said)))
        for kind, error_type in _ERRORS.items():
            if kind in said:
                raise error_type(said[kind])
        value: T = said["value"]
        return value

    # --- rank 0 ---

    def _running(self) -> Loop:
        assert self._loop is not None, "the sampler is closed"
        return self._loop

    def _carry(self, weights: "Iterator[tuple[str, torch.Tensor]]") -> dict[str, Any]:
        self._fault = "a sync was begun and did not end"
        assert self._carrier is not None, "the sampler is closed"
        asking = Asking(self._running(), self._hosts, self._timeout)
        begun = time.monotonic()
        try:
            asking.all("wake_up", lambda host: host.wake())
            sent = Sent(self._hosts[0].dtype)
            self._carrier.carry(sent.cast(weights), asking)
            answers = asking.call("grpo_finish", sent.shapes)
            for host, answer in zip(self._hosts, answers, strict=True):
                word = sent.compare(host.name, answer)
            self._forget_prefixes(asking)
            asking.all("sleep", lambda host: host.rest())
        except SyncError as error:
            self._fault = str(error)
            raise
        except Exception as error:
            self._fault = f"rank 0: the weights did not reach the engine: {type(error).__name__}: {error}"
            raise SyncError(self._fault) from error
        finally:
            pass_by(weights)
        self._fault = ""
        return {"checksum": word, "seconds": time.monotonic() - begun, "tensors": len(sent.parts)}

    def _forget_prefixes(self, asking: Asking) -> None:
        """Requests that were lost hold their blocks until the engine has ended them."""
        end = time.monotonic() + self._timeout
        while not all(empty := asking.all("reset_prefix_cache", lambda host: host.forget())):
            if time.monotonic() > end:
                name = self._hosts[empty.index(False)].name
                raise SyncError(
                    f"{name}: the engine's prefix cache was in use for {self._timeout:g} s after a sync"
                )
            time.sleep(0.1)

    def _draw(self, requests: Sequence[Request], sampling: Sampling) -> list[dict[str, Any]]:
        if self._fault:
            raise SyncError(
                f"the sampler's weights are not the trainer's, sync again. The last fault: {self._fault}"
            )
        self._calls += 1
        wanted = [
            SampleRequest(f"grpo-{self._calls}-{index}", request.prompt, replace(sampling, seed=request.seed))
            for index, request in enumerate(requests)
        ]
        return self._running().run(self._drawn(wanted, divided(requests, len(self._hosts))))

    async def _drawn(self, wanted: Sequence[SampleRequest], owners: Sequence[int]) -> list[dict[str, Any]]:
        mine: list[list[asyncio.Task[dict[str, Any]]]] = [[] for _ in self._hosts]
        tasks = []
        watches: list[asyncio.Task[None]] = []
        try:
            for host in self._hosts:
                await _named(host, host.wake())
            for request, owner in zip(wanted, owners, strict=True):
                host = self._hosts[owner]
                tasks.append(asyncio.create_task(_named(host, host.draw(request))))
                mine[owner].append(tasks[-1])
            for host, drawing in zip(self._hosts, mine, strict=True):
                watches.append(asyncio.create_task(_watch(host, drawing, self._timeout)))
            await asyncio.gather(*tasks, *watches)
            for host in self._hosts:
                await _named(host, host.rest())
        finally:
            for task in (*tasks, *watches):
                task.cancel()
            await asyncio.gather(*tasks, *watches, return_exceptions=True)
        return [task.result() for task in tasks]


def divided(requests: Sequence[Request], hosts: int) -> list[int]:
    """The engine of each request: equal prompts in a row stay together, for the prefix that they share, and
    go where the fewest tokens of prompts, and requests, have gone so far. O(requests x hosts).
    """
    load = [(0, 0)] * hosts
    owners: list[int] = []
    for index, request in enumerate(requests):
        if index == 0 or request.prompt != requests[index - 1].prompt:
            owner = load.index(min(load))
        count, tokens = load[owner]
        load[owner] = (count + 1, tokens + len(request.prompt))
        owners.append(owner)
    return owners


async def _named(host: Host, work: Any) -> Any:
    """An engine's error under its name."""
    try:
        return await work
    except EngineError as error:
        raise EngineError(f"{host.name}: {error}") from error


async def _watch(host: Host, drawing: Sequence["asyncio.Task[Any]"], patience: float) -> None:
    """EngineError if the engine dies, does not answer, or stands still for `patience` seconds."""
    last, since = -1, time.monotonic()
    while True:
        waiting = [task for task in drawing if not task.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=patience / _LOOKS)
        try:
            now = await asyncio.wait_for(_named(host, host.progress()), patience)
        except TimeoutError:
            raise EngineError(f"{host.name}: no answer within {patience:g} s while it drew") from None
        if all(task.done() for task in drawing):
            return
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            raise EngineError(f"{host.name}: nothing was drawn for {patience:g} s: the engine hangs")

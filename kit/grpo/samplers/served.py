"""Completions drawn by engines that run elsewhere: on other nodes, or on other cores of this one.

Each is started with `python -m kit.grpo.serve` and holds the whole model; requests are divided over them, and
the completions of one prompt stay together. See `kit.grpo.samplers.base` for what a sync compares,
`broadcast` and `carrying` for how weights travel, and `wire` for what protects the talk.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kit.grpo.recipe import ToolSection
from kit.grpo.samplers.base import EngineSampler
from kit.grpo.samplers.broadcast import BroadcastCarrier
from kit.grpo.samplers.carrying import FileCarrier, weights_size
from kit.grpo.samplers.loop import Loop
from kit.grpo.samplers.remote import RemoteHost
from kit.grpo.samplers.served_model import fingerprint
from kit.training.ranks import Ranks
from submission.engines.base import EngineError

PATIENCE = 60.0
"""Seconds in which a server may still be starting, or let go of a trainer that was killed."""


class ServedSampler(EngineSampler):
    """See `kit.grpo.rollout.Sampler`.

    Args:
        model: the checkpoint's folder here; each server must serve the same.
        servers: addresses, host:port.
        secret: known to both sides (`kit.grpo.samplers.wire.read_secret`).
        ranks: who speaks to the servers (rank 0), and who is told.
        max_length: tokens of prompt and completion that a server must take.
        dtype: that the engines must compute in; "auto" takes theirs, which must be one.
        transfer: how weights travel.
        directory: of `transfer` "files": a folder that the servers see under the same path.
        sync_timeout: as in `VllmSampler`.
        tools: lets completions run code, in a sandbox beside each engine.
        patience: seconds for every server to answer at the start.

    Raises:
        EngineError: naming each server that does not answer, or serves something else, and why.
    """

    def __init__(
        self,
        model: Path,
        servers: Sequence[str],
        secret: bytes,
        ranks: Ranks,
        *,
        max_length: int,
        dtype: str = "auto",
        transfer: Literal["broadcast", "files"] = "broadcast",
        directory: Path | None = None,
        sync_timeout: float = 600.0,
        tools: ToolSection | None = None,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(ranks, sync_timeout)

        def start() -> None:
            hosts = [RemoteHost(address, secret) for address in servers]
            self._hosts = hosts
            _greet(self._running(), hosts, greeting(model, max_length, dtype, tools), patience)
            for host in hosts:
                if not host.fresh:
                    self._fault = f"{host.name} holds another trainer's weights"
            if transfer == "files":
                self._carrier = FileCarrier(directory, weights_size(model))
            else:
                self._carrier = BroadcastCarrier(hosts, ranks.device)

        self._open(start)


def greeting(
    model: Path, max_length: int, dtype: str = "auto", tools: ToolSection | None = None
) -> dict[str, Any]:
    """What a server is told of a trainer's expectations."""
    return {
        "model": fingerprint(model),
        "dtype": "" if dtype == "auto" else dtype,
        "max_length": max_length,
        "tools": tools.model_dump(mode="json") if tools else None,
    }


def check_servers(
    servers: Sequence[str], secret: bytes, hello: Mapping[str, Any], patience: float = PATIENCE
) -> None:
    """Whether all would serve a trainer with this greeting; none is kept.

    Raises:
        EngineError: as `ServedSampler` does.
    """
    loop = Loop()
    hosts = [RemoteHost(address, secret) for address in servers]
    try:
        _greet(loop, hosts, {**hello, "probe": True}, patience)
    finally:
        for host in hosts:
            loop.run(host.close())
        loop.close()


def _greet(loop: Loop, hosts: Sequence[RemoteHost], hello: Mapping[str, Any], patience: float) -> None:
    started = [loop.begin(host.start(hello, patience)) for host in hosts]
    faults = [str(error) for one in started if (error := one.exception()) is not None]
    if faults:
        raise EngineError("; ".join(faults))
    first = hosts[0]
    for host in hosts:
        if host.dtype != first.dtype:
            raise EngineError(
                f"{host.name} serves the model in {host.dtype}, {first.name} in {first.dtype}: start them "
                "with the same --dtype"
            )

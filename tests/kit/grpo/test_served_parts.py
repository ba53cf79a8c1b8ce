"""Many engines asked at once, requests divided among them, and weights given to a group."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from kit.grpo.recipe import RolloutSection
from kit.grpo.rollout import Request, SyncError
from kit.grpo.samplers.asking import Asking
from kit.grpo.samplers.base import divided
from kit.grpo.samplers.broadcast import BroadcastCarrier, buckets, unpacked
from kit.grpo.samplers.group import Group, listen
from kit.grpo.samplers.loop import Loop
from submission.engines.base import EngineError


class Named:
    """An engine that does as it is named."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        if self.name == "hangs":
            await asyncio.sleep(60)
        if self.name == "dies":
            raise EngineError("it died")
        return [method]


def test_who_fails_is_named_the_cause_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.grpo.samplers.asking.GRACE", 0.4)
    loop = Loop()
    try:

        def ask(*names: str) -> list[list[Any]]:
            return Asking(loop, cast("Any", [Named(name) for name in names]), 0.2).call("load")

        assert ask("a", "b") == [["load"], ["load"]]
        with pytest.raises(SyncError, match=r"^hangs: the engine did not answer load within 0\.2 s$"):
            ask("a", "hangs")
        with pytest.raises(SyncError, match=r"^dies: .*it died; hangs: "):
            ask("hangs", "dies", "a")
    finally:
        loop.close()


def test_equal_prompts_stay_together() -> None:
    requests = [Request([prompt] * 3, seed) for prompt in range(5) for seed in range(4)]
    owners = divided(requests, 2)
    assert [owners[start : start + 4] for start in range(0, 20, 4)] == [[0] * 4, [1] * 4] * 2 + [[0] * 4]
    assert divided(requests, 1) == [0] * 20
    assert divided([], 3) == []


def test_buckets_hold_every_weight_once_and_copies() -> None:
    import torch

    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7.0), "c": torch.zeros(0, 4)}
    weights |= {"d": torch.arange(20.0), "e": torch.arange(2.0)}
    found = []
    for names, shapes, flat in buckets(iter(weights.items()), 32):
        assert flat.nbytes <= 32 or len(names) == 1
        found.append(dict(unpacked(names, shapes, flat)))
    assert [list(bucket) for bucket in found] == [["a", "b", "c"], ["d"], ["e"]]
    for bucket in found:
        for name, tensor in bucket.items():
            assert torch.equal(tensor, weights[name])
            assert not tensor.numel() or tensor.data_ptr() != weights[name].data_ptr()


def test_a_group_gives_everybody_rank_0s_tensor_and_a_lost_member_ends_it() -> None:
    import torch

    place = listen("127.0.0.1")
    address = place.getsockname()
    got: dict[int, list[float]] = {}

    def member(rank: int) -> None:
        group = Group(address, rank, 3, "127.0.0.1", backend="gloo", seconds=10)
        flat = torch.zeros(4)
        group.receive(flat)
        got[rank] = flat.tolist()

    threads = [threading.Thread(target=member, args=(rank,)) for rank in (1, 2)]
    for thread in threads:
        thread.start()
    group = Group(address, 0, 3, "127.0.0.1", backend="gloo", seconds=10, listening=place)
    assert group.send(torch.arange(4.0), lambda: False)
    for thread in threads:
        thread.join()
    assert got == {1: [0, 1, 2, 3], 2: [0, 1, 2, 3]}
    # They are gone: it fails at once, or is told that somebody failed.
    assert not group.send(torch.zeros(1 << 22), lambda: False)


class LateGroup:
    """Rank 0's side sees that it sent all only after the engines said that they have it."""

    def send(self, flat: Any, failed: Callable[[], bool]) -> bool:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            if failed():
                return False
            time.sleep(0.01)
        return True


def test_engines_may_have_it_before_rank_0_sees_that_it_sent() -> None:
    import torch

    loop = Loop()
    try:
        host = cast("Any", Named("a"))
        host.workers = [{"device": "cpu"}]
        carrier = BroadcastCarrier([host], torch.device("cpu"))
        carrier._group = cast("Any", LateGroup())
        carrier.carry(iter({"a": torch.zeros(2)}.items()), Asking(loop, [host], 5.0))
        assert carrier._group is not None
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sampler": "served"}, "go together"),
        ({"servers": ("node7:7300",)}, "go together"),
        ({"sampler": "served", "servers": ("node7",)}, "'node7' is not host:port"),
        ({"sampler": "served", "servers": ("node7:1", "node7:1")}, "names node7:1 twice"),
        ({"sampler": "served", "servers": ("node7:1",), "transfer": "files"}, "transfer_folder go together"),
        (
            {"sampler": "served", "servers": ("node7:1",), "transfer_folder": "w"},
            "transfer_folder go together",
        ),
    ],
)
def test_recipes_that_name_no_server_or_no_way_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        RolloutSection.parse(settings, "the test")


def test_recipes_of_served_engines() -> None:
    both = RolloutSection.parse({"sampler": "served", "servers": ("node7:1", "[::1]:2")}, "the test")
    assert both.transfer == "broadcast"
    settings = {"sampler": "served", "servers": ("node7:1",), "transfer": "files", "transfer_folder": "w"}
    assert RolloutSection.parse(settings, "the test").transfer_folder == "w"

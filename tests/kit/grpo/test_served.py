"""Engines served elsewhere against the one beside the trainer: real servers, weights and deaths."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.rollout import Completion, Request, SyncError
from kit.grpo.samplers.served import ServedSampler
from kit.grpo.samplers.vllm import VllmSampler
from kit.training.ranks import Ranks, join, leave
from submission.engines.base import EngineError, Sampling
from tests.kit.grpo.made import grpo_recipe, train
from tests.kit.grpo.processes import engine_of, gone
from tests.kit.grpo.serving import SETTINGS, alone
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

pytestmark = pytest.mark.slow
SECRET = "0123456789abcdef" * 2
FREE = Sampling(temperature=0.7, max_tokens=24, ignore_eos=True)
REQUESTS = [
    Request([(7 * i * i + 3 * i + p) % 251 for i in range(150)], p * 9 + s)
    for p in range(4)
    for s in range(3)
]
STEPS = 2


class Served:
    """A server in a process of its own.

    Args:
        worker: the class that vLLM is told, where it is not the kit's.
    """

    def __init__(self, folder: Path, model: Path, *, worker: str = "", options: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / f"server-{self.port}.log"
        command = [sys.executable, "-m", "tests.kit.grpo.serve_worker", worker, "--model", str(model)]
        command += ["--port", str(self.port), "--max-model-len", "900", "--max-num-seqs", "16"]
        command += ["--cpu-kv-cache-gib", "1", *options]
        environment = os.environ | {"AIMO_GRPO_SECRET": SECRET, "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=environment)

    def ready(self) -> "Served":
        """Wait until it serves."""
        end = time.monotonic() + 600
        while "serving at" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)
        return self

    def close(self) -> None:
        """As an operator ends it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(
        tmp_path_factory.mktemp("tiny") / "qwen2", architecture="qwen2", max_positions=1024
    )


@pytest.fixture(scope="module")
def servers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    folder = tmp_path_factory.mktemp("servers")
    found = [Served(folder, model) for _ in range(2)]
    try:
        yield found  # they start while others work
        engines = {pid for server in found for pid in engine_of(server.process.pid)}
        assert len(engines) >= 2
    finally:
        for server in found:
            server.close()
    assert gone(engines, 10)


def connected(
    model: Path, servers: Sequence[Served], ranks: Ranks | None = None, **more: Any
) -> ServedSampler:
    settings: dict[str, Any] = {"max_length": 800, "sync_timeout": 60.0} | more
    # One that was killed keeps its address.
    addresses = [server.address if server.process.poll() else server.ready().address for server in servers]
    return ServedSampler(
        model, addresses, settings.pop("secret", SECRET.encode()), ranks or alone(), **settings
    )


def stages(model: Path) -> list[dict[str, Any]]:
    """The weights of several steps."""
    import torch
    from transformers import AutoModelForCausalLM

    causal: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for value in causal.parameters():
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
        found.append({name: value.detach().clone() for name, value in causal.named_parameters()})
    return found


def drawn(sampler: Any, weights: Sequence[dict[str, Any]]) -> tuple[list[list[tuple[int, ...]]], list[str]]:
    """Tokens before the first sync and after each, and the checksums."""
    tokens, sums = [ids(sampler)] if not sampler._fault else [], []
    for stage in weights:
        sums.append(sampler.sync(iter(stage.items())).checksum)
        tokens.append(ids(sampler))
    return tokens, sums


def ids(sampler: Any) -> list[tuple[int, ...]]:
    rows = sampler.sample(REQUESTS, FREE)
    assert all(isinstance(row, Completion) for row in rows), rows
    return [row.ids for row in rows]


@pytest.fixture(scope="module")
def expected(model: Path, servers: list[Served]) -> tuple[list[list[tuple[int, ...]]], list[str]]:
    """What the engine beside the trainer draws, while the servers start."""
    sampler = VllmSampler(model, SETTINGS, alone(), sync_timeout=60)
    try:
        found = drawn(sampler, stages(model))
    finally:
        sampler.close()
    assert len({str(tokens) for tokens in found[0]}) == STEPS + 1
    return found


def test_served_engines_draw_what_the_one_beside_the_trainer_draws(
    model: Path, servers: list[Served], expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several buckets, and several files.
    monkeypatch.setattr("kit.grpo.samplers.broadcast.BUCKET_BYTES", 20_000)
    monkeypatch.setattr("kit.grpo.samplers.carrying.SHARD_BYTES", 20_000)
    sampler = connected(model, servers)
    try:
        assert drawn(sampler, stages(model)) == expected
    finally:
        sampler.close()
    # The next trainer: what the servers hold is not the checkpoint's any more.
    sampler = connected(model, servers, transfer="files", directory=tmp_path)
    try:
        with pytest.raises(SyncError, match="holds another trainer's weights"):
            sampler.sample(REQUESTS, FREE)
        tokens, sums = drawn(sampler, stages(model))
        assert (tokens, sums) == (expected[0][1:], expected[1])
    finally:
        sampler.close()
    assert list(tmp_path.iterdir()) == []


def test_a_bit_that_flips_on_the_way_is_found_and_mended(
    model: Path, servers: list[Served], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kit.grpo.samplers.group import Group

    send = Group.send

    def flipped(self: Any, flat: Any, failed: Any) -> bool:
        import torch

        other = flat.clone()
        other.view(torch.int32)[-1] ^= 1
        return send(self, other, failed)

    weights = stages(model)
    sampler = connected(model, servers[:1])
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Group, "send", flipped)
            where = re.escape(servers[0].address)
            with pytest.raises(
                SyncError, match=rf"server {where}: worker 0 .* there, [0-9a-f]{{64}} here, 1 of"
            ):
                sampler.sync(iter(weights[0].items()))
        with pytest.raises(SyncError, match="sync again"):
            sampler.sample(REQUESTS, FREE)
        sampler.sync(iter(weights[1].items()))
        assert ids(sampler) == expected[0][-1]
    finally:
        sampler.close()


@pytest.fixture(autouse=True)
def _ready(servers: list[Served], expected: Any) -> None:
    for server in servers:
        server.ready()


def on_every_rank(model: str, address: str) -> dict[str, Any]:
    """Syncs once and samples."""
    ranks = join(300.0)
    sampler = ServedSampler(Path(model), [address], SECRET.encode(), ranks, max_length=800, sync_timeout=60)
    sums = sampler.sync(iter(stages(Path(model))[-1].items())).checksum
    found = ids(sampler)
    sampler.close()
    leave()
    return {"ids": found, "sum": sums}


def test_all_ranks_get_what_the_servers_drew(model: Path, servers: list[Served], expected: Any) -> None:
    ended = launch(on_every_rank, 2, str(model), servers[0].address)
    assert ended.codes == [0, 0], ended.errors
    for result in ended.results:
        assert result == {"ids": expected[0][-1], "sum": expected[1][-1]}


def test_a_whole_run(model: Path, servers: list[Served], tmp_path: Path) -> None:
    """Two ranks, two servers, completions drawn ahead; and servers that serve something else, named first."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    rollout: dict[str, Any] = {
        "sampler": "served",
        "servers": [server.address for server in servers],
        "secret_file": str(secret),
        "overlap": True,
    }
    sections: dict[str, dict[str, Any]] = {"model": {"path": str(model)}, "batch": {"num_episodes": 2}}
    recipe = grpo_recipe(tmp_path, rollout=rollout, **sections)
    assert launch(train, 2, recipe.model_dump(mode="json")).result["steps"] == 2
    assert len(list((tmp_path / "run" / "rollouts").glob("step-*.parquet"))) == 2
    other = grpo_recipe(tmp_path / "run", rollout=rollout)
    ended = launch(train, 1, other.model_dump(mode="json"))
    assert f"rollout.servers: server {servers[0].address}: it serves another model" in ended.errors[0]


def test_wrong_servers_are_named(model: Path, servers: list[Served], tmp_path: Path) -> None:
    first, second = (re.escape(server.address) for server in servers)
    with pytest.raises(EngineError, match=rf"server {first}: the secret there is another; server {second}: "):
        connected(model, servers, secret=b"another secret, as long")
    other = make_tiny_checkpoint(tmp_path / "other", max_positions=1024)
    with pytest.raises(
        EngineError, match=rf"server {second}: it serves another model: architecture is Qwen2"
    ):
        connected(other, servers)
    with pytest.raises(EngineError, match=rf"server {first}: .* in float32, .* here is bfloat16"):
        connected(model, servers, dtype="bfloat16")


def test_deaths_are_named(model: Path, servers: list[Served], tmp_path: Path) -> None:
    """A server that forgets, whose engine hangs, and that is killed, beside one that is well."""
    well = servers[0]
    odd = Served(tmp_path, model, worker="tests.kit.grpo.forgetful.Worker").ready()
    name = re.escape(odd.address)
    weights = stages(model)
    engine = engine_of(odd.process.pid)
    assert engine
    try:
        sampler = connected(model, [well, odd], sync_timeout=20.0)
        with pytest.raises(
            SyncError, match=rf"^server {name}: worker 0 .* does not hold the trainer's weights"
        ):
            sampler.sync(iter(weights[0].items()))
        for pid in engine:
            os.kill(pid, signal.SIGSTOP)
        sampler._timeout = 4.0
        with pytest.raises(SyncError, match=rf"^server {name}: the engine did not answer \w+ within 4 s$"):
            sampler.sync(iter(weights[0].items()))
        for pid in engine:
            os.kill(pid, signal.SIGCONT)
        odd.process.kill()
        odd.process.wait()
        sampler._timeout = 20.0
        with pytest.raises(SyncError, match=rf"^server {name}: .*the server died, or cannot be reached"):
            sampler.sync(iter(weights[0].items()))
        sampler.close()
        assert gone(engine, 10)
        with pytest.raises(EngineError, match=rf"server {name}: no server there"):
            connected(model, [well, odd], patience=0.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            odd.process.kill()
        odd.process.wait()

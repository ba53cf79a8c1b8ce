"""A server without a model behind it: who is let in, what is refused, how it is told, and when it is free."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from kit.grpo.samplers.group import listen
from kit.grpo.samplers.host import LocalHost
from kit.grpo.samplers.remote import RemoteHost
from kit.grpo.samplers.served_model import fingerprint
from kit.grpo.samplers.server import Server
from submission.engines.base import EngineError, SampleRequest, Sampling

SECRET = b"0123456789abcdef"
OTHER = b"0123456789abcdeg"


class Engine:
    """Answers without a model: prompts that begin with 0 are never finished, with 1 kill it."""

    name, dtype = "this server", "float32"
    workers: tuple[dict[str, Any], ...] = ({"device": "cpu"},)

    def __init__(self) -> None:
        self.left = self.drawing = 0
        self.dead = False

    def equip(self, tools: Any) -> None:
        """Nothing."""

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        self.left += method == "grpo_leave"
        return [[method, *arguments]]

    async def progress(self) -> int:
        if self.dead:
            raise EngineError("the engine is dead")
        return 7

    async def draw(self, request: SampleRequest) -> dict[str, Any]:
        self.drawing += 1
        try:
            self.dead = request.prompt[0] == 1
            if request.prompt[0] < 2:
                await asyncio.Event().wait()
            return {"ids": list(request.prompt), "seed": request.sampling.seed}
        finally:
            self.drawing -= 1


def made(folder: Path, weights: int = 0) -> Path:
    """As much of a checkpoint as is looked at."""
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes([weights]) * 100_000)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made(tmp_path / "llama")


def hello(model: Path, **other: Any) -> dict[str, Any]:
    return {"model": fingerprint(model), "dtype": "", "max_length": 100, "tools": None} | other


Scene = Callable[[Callable[..., RemoteHost], Engine], Coroutine[Any, Any, None]]


def played(model: Path, scene: Scene, *, once: bool = False) -> str:
    """A scene with a server; how the server ended ("" where it had not)."""

    async def play() -> str:
        engine = Engine()
        server = Server(cast("LocalHost", engine), model, 200, SECRET, once=once)
        with listen("127.0.0.1") as probe:
            port = probe.getsockname()[1]
        running = asyncio.create_task(server.run("127.0.0.1", port))
        await asyncio.sleep(0.05)
        hosts: list[RemoteHost] = []

        def host(secret: bytes = SECRET) -> RemoteHost:
            hosts.append(RemoteHost(f"127.0.0.1:{port}", secret))
            return hosts[-1]

        await scene(host, engine)
        for one in hosts:
            await one.close()
        await asyncio.sleep(0.1)
        ended = running.done()
        running.cancel()
        said = (await asyncio.gather(running, return_exceptions=True))[0]
        return f"{said!r}" if ended else ""

    return asyncio.run(play())


def test_questions_are_answered_in_any_order(model: Path) -> None:
    async def scene(host: Callable[..., RemoteHost], engine: Engine) -> None:
        one = host()
        await one.start(hello(model), 5)
        assert (one.dtype, one.workers, one.fresh) == ("float32", [{"device": "cpu"}], True)
        assert (one.here, one.there) == ("127.0.0.1", "127.0.0.1")
        slow = asyncio.create_task(one.draw(SampleRequest("a", [0], Sampling())))
        row = await one.draw(SampleRequest("b", [5, 6], Sampling(seed=3, stop=("x",))))
        assert row == {"ids": [5, 6], "seed": 3}
        assert await one.call("grpo_load", "a path") == [["grpo_load", "a path"]]
        assert await one.progress() == 7
        for method in ("sleep", "execute_method"):
            with pytest.raises(EngineError, match=f"does not know call {method}"):
                await one.call(method)
        with pytest.raises(EngineError, match="ValidationError"):
            await one.draw(SampleRequest("c", cast("Any", ["5"]), Sampling()))
        # Who gives up is not drawn for.
        slow.cancel()
        await asyncio.sleep(0.1)
        assert engine.drawing == 0

    assert played(model, scene) == ""


def test_one_trainer_at_a_time_and_the_next_when_it_is_gone(model: Path) -> None:
    async def scene(host: Callable[..., RemoteHost], engine: Engine) -> None:
        first, second = host(), host()
        await first.start(hello(model), 5)
        waiting = asyncio.create_task(first.draw(SampleRequest("a", [0], Sampling())))
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:\d+: it serves the trainer at 127\.0\.0\.1"):
            await second.start(hello(model), 0.3)
        await first.call("grpo_load", "a path")
        await first.close()
        with pytest.raises(EngineError, match=r"hung up"):
            await asyncio.wait_for(waiting, 1)
        await second.start(hello(model), 5)
        assert (engine.drawing, engine.left) == (0, 1)
        assert not second.fresh

    assert played(model, scene) == ""


def test_once(model: Path) -> None:
    async def scene(host: Callable[..., RemoteHost], engine: Engine) -> None:
        # Who only asks is no trainer.
        probe = host()
        await probe.start(hello(model, probe=True), 5)
        await asyncio.sleep(0.05)
        with pytest.raises(EngineError, match="died"):
            await probe.progress()
        await host().start(hello(model), 5)

    assert played(model, scene, once=True) == "None"


def test_who_is_refused_is_told_why(model: Path, tmp_path: Path) -> None:
    another = made(tmp_path / "another", weights=9)

    async def scene(host: Callable[..., RemoteHost], engine: Engine) -> None:
        cases: list[tuple[bytes, dict[str, Any], str]] = [
            (OTHER, hello(model), "the secret there is another"),
            (SECRET, hello(another), "it serves another model: weights is"),
            (SECRET, hello(model, dtype="bfloat16"), "in float32, and rollout.engine.dtype here is bfloat16"),
            (SECRET, hello(model, max_length=201), "it takes 200 tokens a sample, fewer"),
            (SECRET, hello(model, tools={"rounds": 0}), "rollout.tools"),
            (SECRET, {"model": "?"}, "not one of this version"),
        ]
        for secret, said, expected in cases:
            with pytest.raises(EngineError, match=rf"server 127\.0\.0\.1:\d+: .*{expected}"):
                await host(secret).start(said, 5)
        await host().start(hello(model), 5)

    assert played(model, scene) == ""


@pytest.mark.slow
def test_a_dead_engine_ends_the_server_which_says_so(model: Path) -> None:
    async def scene(host: Callable[..., RemoteHost], engine: Engine) -> None:
        one = host()
        await one.start(hello(model), 5)
        with pytest.raises(EngineError, match="the server ended: the engine is dead"):
            await asyncio.wait_for(one.draw(SampleRequest("a", [1], Sampling())), 5)
        with pytest.raises(EngineError, match="the server ended"):
            await one.progress()

    assert "the engine is dead" in played(model, scene)


def test_nobody_there_and_somebody_else_there() -> None:
    async def play() -> None:
        with listen("127.0.0.1") as probe:
            port = probe.getsockname()[1]
        with pytest.raises(EngineError, match=r"no server there .*python -m kit\.grpo\.serve"):
            await RemoteHost(f"127.0.0.1:{port}", SECRET).start({}, 0.2)
        with listen("127.0.0.1") as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(EngineError, match=f"server {address}: no answer within 0.3 s"):
                await RemoteHost(address, SECRET).start({}, 0.3)

    asyncio.run(play())


def test_fingerprints_name_what_differs(model: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    assert fingerprint(copy) == fingerprint(model)
    other = fingerprint(made(tmp_path / "other", weights=4))
    assert [name for name, word in fingerprint(model).items() if other[name] != word] == ["weights"]
    with (copy / "config.json").open("a") as file:
        file.write(os.linesep)
    assert [name for name, word in fingerprint(model).items() if fingerprint(copy)[name] != word] == [
        "config.json"
    ]

"""The two real engines on a random tiny checkpoint: the same protocol, checked by the same tests."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from submission.engines import Engine, make_engine
from submission.engines.base import Chunk, EngineError, Message, SampleRequest, Sampling
from submission.settings import EngineSettings
from tests.tiny import make_tiny_checkpoint

pytestmark = pytest.mark.slow
CHAT = [Message("system", "Be brief."), Message("user", "What is 1 + 1?")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), max_positions=1024)


def children() -> set[int]:
    """Process ids of everything this process started, helpers of Python's own left out."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # gone meanwhile, or dead and not yet reaped
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


class Running:
    """An engine and the event loop it lives in."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.loop = asyncio.new_event_loop()
        before = children()  # earlier tests of this process may have left helpers of libraries running
        self.run(engine.start())
        self.processes = children() - before

    def run(self, work: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work, 300)

        return self.loop.run_until_complete(bounded())

    async def collect(self, name: str, stop_after: int | None = None, **sampling: Any) -> list[Chunk]:
        request = SampleRequest(
            name, self.engine.encode_chat(CHAT), Sampling(**{"max_tokens": 40, **sampling})
        )
        chunks = []
        async for chunk in self.engine.generate(request):
            chunks.append(chunk)
            if stop_after is not None and len(chunks) >= stop_after:
                break
        return chunks

    def sample(self, name: str, **sampling: Any) -> tuple[tuple[int, ...], str, list[float], str | None]:
        chunks = self.run(self.collect(name, **sampling))
        ids = tuple(token for chunk in chunks for token in chunk.token_ids)
        logprobs = [value for chunk in chunks for value in chunk.logprobs]
        return ids, "".join(chunk.text for chunk in chunks), logprobs, chunks[-1].finish_reason


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def running(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[Running]:
    settings = EngineSettings(
        kind=request.param, max_model_len=900, max_num_seqs=8, cpu_kv_cache_gib=1, dtype="float32"
    )
    before = children()
    running = Running(make_engine(settings, checkpoint))
    yield running
    running.run(running.engine.close())
    running.loop.close()
    assert children() <= before, "an engine process is left"


def test_length_limit_tokens_and_logprobs(running: Running) -> None:
    ids, _, logprobs, reason = running.sample("length", seed=1, ignore_eos=True)
    assert (len(ids), len(logprobs), reason) == (40, 40, "length")
    assert all(value < 0 for value in logprobs)


def test_a_seed_gives_the_same_sample_alone_and_in_a_batch(running: Running) -> None:
    alone = running.sample("alone", seed=5, ignore_eos=True)

    async def together() -> list[list[Chunk]]:
        return await asyncio.gather(
            *(running.collect(f"batch-{seed}", seed=seed, ignore_eos=True) for seed in range(3, 8))
        )

    batch = running.run(together())
    assert tuple(token for chunk in batch[2] for token in chunk.token_ids) == alone[0]
    assert len({tuple(t for c in chunks for t in c.token_ids) for chunks in batch}) == 5


def test_greedy_logprobs_equal_a_plain_forward_pass(running: Running, checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids, _, logprobs, _ = running.sample("greedy", temperature=0.0, ignore_eos=True)
    prompt = running.engine.encode_chat(CHAT)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits, -1)
    assert tuple(expected.argmax(-1).tolist()) == ids
    torch.testing.assert_close(torch.tensor(logprobs), expected.max(-1).values, atol=1e-4, rtol=0)


def test_a_stop_string_ends_the_sample_and_is_not_shown(running: Running) -> None:
    _, text, _, _ = running.sample("free", seed=9, ignore_eos=True, max_tokens=200)
    # Any two neighbouring printable characters that the model does write.
    stop = next(text[i : i + 2] for i in range(20, len(text) - 2) if text[i : i + 2].isascii())
    _, stopped, _, reason = running.sample("stopped", seed=9, ignore_eos=True, max_tokens=200, stop=(stop,))
    assert reason == "stop"
    assert stopped == text[: text.index(stop)]


@pytest.mark.parametrize("way", ["cancel", "break", "abort"])
def test_a_sample_can_be_ended_and_frees_its_place(running: Running, way: str) -> None:
    async def end_one() -> float:
        if way == "break":
            await running.collect(f"{way}-me", stop_after=1, max_tokens=800, ignore_eos=True)
            return 0.0
        task = asyncio.create_task(running.collect(f"{way}-me", max_tokens=800, ignore_eos=True))
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        if way == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await running.engine.abort("abort-me")
            chunks = await task
            assert all(chunk.finish_reason is None for chunk in chunks)
        return time.monotonic() - begun

    assert running.run(end_one()) < 0.5
    # The engine serves on.
    assert running.sample(f"after-{way}", max_tokens=4, ignore_eos=True)[3] == "length"


def test_aborting_an_unknown_sample_is_nothing(running: Running) -> None:
    running.run(running.engine.abort("never-heard-of"))
    assert running.sample("after-unknown", max_tokens=4, ignore_eos=True)[3] == "length"


def test_a_prompt_beyond_the_context_is_refused(running: Running) -> None:
    async def too_long() -> None:
        request = SampleRequest("long", [5] * 2000, Sampling(max_tokens=10))
        async for _ in running.engine.generate(request):
            pass

    with pytest.raises(EngineError):
        running.run(too_long())


def test_counts_tokens_of_plain_text(running: Running) -> None:
    assert running.engine.count_tokens("abc") == 3  # the tiny tokenizer has one token a byte
    assert running.engine.max_context == 900


def test_vllm_is_one_process_beside_this(running: Running) -> None:
    """By itself it starts two on a CPU: a worker's beside the engine's, seconds of each start."""
    assert len(running.processes) == (type(running.engine).__name__ == "VllmEngine")


def test_the_switches_are_off_the_network(running: Running) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1" and os.environ["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_a_broken_checkpoint_is_an_engine_error(tmp_path: Path, checkpoint: Path, kind: Any) -> None:
    for item in checkpoint.iterdir():
        (tmp_path / item.name).write_bytes(item.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    before = children()
    engine = make_engine(EngineSettings(kind=kind, max_model_len=512, cpu_kv_cache_gib=1), tmp_path)
    with pytest.raises(EngineError, match=str(tmp_path)):
        asyncio.run(engine.start())
    asyncio.run(engine.close())
    assert children() <= before, "an engine process is left"


@pytest.mark.parametrize(("length", "moved"), [(20, False), (90, True)])
def test_sockets_fit_whatever_the_temporary_folder(
    length: int, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer path than 107 characters is none that a socket can have, and vllm would not start."""
    from submission.engines.vllm_engine import prepare_environment

    monkeypatch.setattr("tempfile.tempdir", "/" + "t" * (length - 1))
    monkeypatch.setattr("os.environ", {})
    prepare_environment(EngineSettings())
    assert os.environ.get("VLLM_RPC_BASE_PATH") == ("/tmp" if moved else None)


@pytest.mark.parametrize("eager", [None, True, False])
def test_an_eager_engine_of_a_cpu_wants_no_compiler(
    eager: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from submission.engines.vllm_engine import prepare_environment

    monkeypatch.setattr("os.environ", {})
    prepare_environment(EngineSettings(enforce_eager=eager))
    disabled = torch.version.cuda is None and eager is not False
    assert os.environ.get("TORCHDYNAMO_DISABLE") == ("1" if disabled else None)

"""Completions drawn by the contest's own engine, so that what is trained is what will run.

Rank 0 runs vLLM; the other ranks are told what it drew. Weights reach the engine's process through files of
at most `SHARD_BYTES` in a private folder, in memory where that has room (`SyncedWorker.grpo_load` is the
receiving end; another way to carry them changes that method and `_carry`). After every sync the checksums of
the trainer's weights and of the engine's live parameters are compared, weight by weight, and the prefix cache
is emptied: its keys and values belong to the old weights.

What is compared is exact for one worker. With tensor parallelism a worker holds slices that its loader alone
understands: then every worker's checksums of what it received are compared. Quantized engines and MLA are
refused, since they compute with something else than the weights that were loaded.

Memory beside the engine: two shards on rank 0's machine (`shard_files`). On a CPU the engine holds its
weights twice: as parameters, which are compared, and as vLLM packs them for its kernels. Time of a sync: one
pass over the weights for each checksum, one write, one read.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from kit.grpo.checksum import Checksum, checksum, combined, unordered
from kit.grpo.recipe import ToolSection
from kit.grpo.rollout import Completion, Failure, Request, Synced, SyncError
from kit.grpo.samplers.drawing import draw_one, draw_with_tools, unpacked
from kit.grpo.samplers.folder import WeightsFolder, shard_files
from kit.grpo.samplers.vllm_worker import TRAINER
from kit.training.ranks import Ranks
from submission.agents.sandbox_runner import Seats
from submission.engines.base import EngineError, SampleRequest, Sampling
from submission.engines.vllm_engine import VllmEngine, prepare_environment
from submission.sandbox import Sandbox
from submission.settings import EngineSettings

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

SHARD_BYTES = 1_000_000_000
WORKER = "kit.grpo.samplers.vllm_worker.Worker"
_LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_ERRORS: dict[str, type[RuntimeError]] = {"sync": SyncError, "engine": EngineError}


class VllmSampler:
    """vLLM in a process of its own, started here; see `kit.grpo.rollout.Sampler`.

    Before the first `sync` it holds the weights of the model's folder; after one that failed it draws nothing
    until another has succeeded.

    Args:
        model: the checkpoint's folder.
        settings: of the engine, as in the contest.
        ranks: who runs the engine (rank 0), and who is told.
        sync_timeout: seconds for each answer of the engine during a sync. The process group's own timeout
            must be longer: the other ranks wait in it.
        directory: where weights pass through; None chooses (`WeightsFolder`).
        sleep: leave the engine's GPU memory to the trainer between calls (vLLM's sleep, level 1: weights go
            to CPU memory, the key-value cache is dropped). Ignored where the platform has no such mode.

        tools: lets completions run code, in a sandbox of rank 0.

    Raises:
        EngineError: the engine could not start, or cannot take over weights.
    """

    def __init__(
        self,
        model: Path,
        settings: EngineSettings,
        ranks: Ranks,
        *,
        sync_timeout: float = 600.0,
        directory: Path | None = None,
        sleep: bool = False,
        tools: ToolSection | None = None,
    ) -> None:
        self._ranks = ranks
        self._timeout = sync_timeout
        self._sleep = sleep
        self._tools = tools
        self._sandbox: Sandbox | None = None
        self._asleep = False
        self._fault = ""
        self._calls = 0
        self._loop: _Loop | None = None
        self._engine: VllmEngine | None = None
        self._folder: WeightsFolder | None = None
        self._dtype = ""
        try:
            self._on_main(lambda: self._start(model, settings, directory))
        except BaseException:
            self.close()
            raise

    def sync(self, weights: "Iterator[tuple[str, torch.Tensor]]") -> Synced:
        """Carry the weights over, compare the checksums, forget the prefixes.

        Raises:
            SyncError: a checksum differs, the engine failed or did not answer in time, or the disk is full.
        """
        if not self._ranks.main:
            _pass_by(weights)
        return Synced(**self._on_main(lambda: self._carry(weights)))

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
        """Draw all of them together; a request that the engine refuses or loses is a `Failure`.

        Raises:
            EngineError: the engine is dead. SyncError: the last sync failed.
        """
        rows = self._on_main(lambda: self._draw(requests, sampling))
        return [unpacked(row) for row in rows]

    def close(self) -> None:
        """End the engine's processes and remove the folder; idempotent, and not collective."""
        engine, self._engine = self._engine, None
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()  # vLLM's listener would call the end of its engine an error
            if engine is not None:
                loop.run(engine.close())
            loop.close()
        if self._folder is not None:
            self._folder.close()
        if self._sandbox is not None:
            self._sandbox.close()

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

    def _start(self, model: Path, settings: EngineSettings, directory: Path | None) -> None:
        if self._tools is not None:
            self._sandbox = Sandbox(self._tools.sandbox)
        self._loop = _Loop()
        arguments: dict[str, Any] = {"worker_cls": WORKER, "logprobs_mode": "processed_logprobs"}
        with _engine_environment():
            prepare_environment(settings)
            self._sleep = self._sleep and _can_sleep()
            if self._sleep:
                arguments["enable_sleep_mode"] = True
            self._engine = VllmEngine(model, settings, arguments)
            self._loop.run(self._engine.start())
        said = self._loop.run(self._engine.llm.collective_rpc("grpo_describe"))[0]
        if said["quantization"] or said["mla"]:
            kind = said["quantization"] or "MLA"
            raise EngineError(
                f"weights cannot be replaced in {model} as vllm serves it ({kind}): serve it in bfloat16"
            )
        self._dtype = said["dtype"]
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        self._folder = WeightsFolder(directory, min(2 * size, 2 * SHARD_BYTES))

    def _carry(self, weights: "Iterator[tuple[str, torch.Tensor]]") -> dict[str, Any]:
        self._fault = "a sync was begun and did not end"
        assert self._folder is not None
        begun = time.monotonic()
        try:
            self._wake()
            sent: dict[str, Checksum] = {}
            shapes: dict[str, list[int]] = {}
            for path in shard_files(self._cast(weights, sent, shapes), self._folder.path, SHARD_BYTES):
                self._call("grpo_load", str(path))
            word = self._compare(sent, self._call("grpo_finish", shapes))
            self._forget_prefixes()
            self._rest()
        except SyncError as error:
            self._fault = str(error)
            raise
        except Exception as error:
            self._fault = f"rank 0: the weights did not reach the engine: {type(error).__name__}: {error}"
            raise SyncError(self._fault) from error
        finally:
            _pass_by(weights)
        self._fault = ""
        return {"checksum": word, "seconds": time.monotonic() - begun, "tensors": len(sent)}

    def _cast(
        self,
        weights: "Iterator[tuple[str, torch.Tensor]]",
        sent: dict[str, Checksum],
        shapes: dict[str, list[int]],
    ) -> "Iterator[tuple[str, torch.Tensor]]":
        """The weights in the engine's type, noted as they pass."""
        import torch

        dtype = getattr(torch, self._dtype)
        for name, tensor in weights:
            assert name not in sent, f"{name} came twice"
            cast = tensor.detach().to(dtype)
            sent[name], shapes[name] = checksum(cast), list(cast.shape)
            yield name, cast

    def _compare(self, sent: Mapping[str, Checksum], answers: Sequence[Mapping[str, Any]]) -> str:
        """The common checksum of trainer and every worker.

        Raises:
            SyncError: a worker's differs.
        """
        for worker, answer in enumerate(answers):
            where = f"rank 0: worker {worker} of the engine"
            if "sum" in answer:
                ours, theirs, wrong = unordered(sent), answer["sum"], ["(compared as a whole)"]
            else:
                parts = {name: Checksum.parse(part) for name, part in answer["parts"].items()}
                ours, theirs = combined(sent), combined(parts)
                wrong = [name for name in sent if parts.get(name) != sent[name]]
            if ours != theirs:
                raise SyncError(
                    f"{where} does not hold the trainer's weights: checksum {theirs} there, {ours} here, "
                    f"{len(wrong)} of {len(sent)} tensors differ, {wrong[0]} first"
                )
            if lost := answer.get("lost"):
                raise SyncError(
                    f"{where} has weights that the trainer does not send: {', '.join(lost)} (the {len(sent)} "
                    f"tensors that it sends agree, checksum {ours})"
                )
        return ours

    def _forget_prefixes(self) -> None:
        """Requests that were lost hold their blocks until the engine has ended them."""
        end = time.monotonic() + self._timeout
        while not self._answer(self._llm().reset_prefix_cache(), "reset_prefix_cache"):
            if time.monotonic() > end:
                raise SyncError(
                    f"rank 0: the engine's prefix cache was in use for {self._timeout:g} s after a sync"
                )
            time.sleep(0.1)

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """A method of all workers; their answers."""
        answers: list[Any] = self._answer(self._llm().collective_rpc(method, args=arguments), method)
        return answers

    def _answer(self, question: Coroutine[Any, Any, T], name: str) -> T:
        assert self._loop is not None
        try:
            return self._loop.run(question, self._timeout)
        except TimeoutError as error:
            raise SyncError(f"rank 0: the engine did not answer {name} within {self._timeout:g} s") from error

    def _llm(self) -> Any:
        assert self._engine is not None, "the sampler is closed"
        return self._engine.llm

    def _wake(self) -> None:
        if self._asleep:
            self._answer(self._llm().wake_up(), "wake_up")
            self._asleep = False

    def _rest(self) -> None:
        if self._sleep:
            self._answer(self._llm().sleep(level=1), "sleep")
            self._asleep = True

    def _draw(self, requests: Sequence[Request], sampling: Sampling) -> list[dict[str, Any]]:
        assert self._loop is not None and self._engine is not None, "the sampler is closed"
        if self._fault:
            raise SyncError(
                f"the sampler's weights are not the trainer's, sync again. The last fault: {self._fault}"
            )
        self._wake()
        self._calls += 1
        rows = self._loop.run(self._together(self._engine, requests, sampling))
        if self._engine.llm.errored:
            reasons = [row["reason"] for row in rows if "reason" in row]
            raise EngineError(
                f"rank 0: the engine is dead: {reasons[0] if reasons else 'it stopped by itself'}"
            )
        self._rest()
        return rows

    async def _together(
        self, engine: VllmEngine, requests: Sequence[Request], sampling: Sampling
    ) -> list[dict[str, Any]]:
        wanted = [
            SampleRequest(f"grpo-{self._calls}-{index}", request.prompt, replace(sampling, seed=request.seed))
            for index, request in enumerate(requests)
        ]
        if self._tools is None or self._sandbox is None:
            return await asyncio.gather(*(draw_one(engine, request) for request in wanted))
        seats = Seats(self._sandbox, self._tools.timeout)
        return await asyncio.gather(
            *(draw_with_tools(engine, request, seats, self._tools) for request in wanted)
        )


def _pass_by(weights: "Iterator[tuple[str, torch.Tensor]]") -> None:
    """Every rank takes part in the gathers, whatever became of the weights so far."""
    for _ in weights:
        pass


def _can_sleep() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available())


@contextmanager
def _engine_environment() -> Iterator[None]:
    """What the engine's process inherits: whom it ends with, and nothing of this launch's ranks."""
    ours = {name: os.environ.pop(name) for name in _LAUNCH if name in os.environ}
    os.environ[TRAINER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[TRAINER]
        os.environ.update(ours)


class _Loop:
    """An event loop in a thread of its own: vLLM's streams go on whatever the trainer does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="vllm-sampler", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Its result; TimeoutError after `timeout` seconds, the work cancelled."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        finally:
            future.cancel()

    def cancel(self) -> None:
        """Cancel all that runs, and wait for its end."""
        self.run(self._cancelled())

    def close(self) -> None:
        """End the thread."""
        self.cancel()
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancelled(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

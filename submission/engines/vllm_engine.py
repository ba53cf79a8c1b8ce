"""vLLM's async engine: one request a sample, so that each can be watched and aborted on its own.

The model runs in vLLM's own engine process; this process only tokenizes and detokenizes. Importing vllm
and loading the weights happen in a thread, so that the event loop, and the gateway behind it, stay alive.

Memory: weights + KV cache of `gpu_memory_utilization` (GPU) or `cpu_kv_cache_gib` (CPU). Time: prefill is
linear in prompt tokens (shared prefixes are cached), decoding in completion tokens over the batch.
"""

import asyncio
import gc
import importlib.util
import logging
import multiprocessing
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from submission.engines.base import (
    Chunk,
    EngineError,
    FinishReason,
    MakeRoom,
    Message,
    SampleRequest,
    Sampling,
)
from submission.engines.tokenizer import CheckpointEngine
from submission.offline import go_offline
from submission.settings import EngineSettings

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

IN_THE_ENGINE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The worker in the engine's process, as one GPU has it. By itself vLLM gives a CPU's worker a process of its
own for the sake of OpenMP's variables: a third import of torch, seconds of each start, for which decoding was
seen to be about 4 % faster. As a path, since the short name is replaced."""
SHORT_TEMPORARY = "/tmp"  # noqa: S108 - vllm makes names there that nobody can guess
LONGEST_TEMPORARY = 64
"""Characters of a temporary folder's path that leave room for the name of a socket."""
END_GRACE = 1.0
"""Seconds in which vLLM's processes may end by themselves. On a CPU they take longer, over nothing that is
needed, and are killed once the time is over, which by default is five seconds."""
LONGEST_END = 30.0
"""Seconds in which the kernel takes a killed process apart: gigabytes of memory are given back."""

# Tokens between two chunks of a sample. A chunk a token costs a process switch a token; at 32 the streaming's
# share of the time is lost in the noise. The end of a sample is seen at once all the same.
STREAM_INTERVAL = 32


class VllmEngine(CheckpointEngine):
    """The model folder served by `vllm.v1.engine.async_llm.AsyncLLM`; see `Engine` for the methods.

    Args:
        model: a checkpoint folder.
        settings: how it is served.
        arguments: more arguments of vLLM's engine, over those of the settings: for training, which wants
            another worker, and log-probabilities of another kind than `Chunk` states.
    """

    def __init__(
        self, model: Path, settings: EngineSettings, arguments: Mapping[str, Any] | None = None
    ) -> None:
        self._model = Path(model)
        self._settings = settings
        self._arguments = dict(arguments or {})
        self._engine: AsyncLLM | None = None
        self._processes: list[BaseProcess] = []
        self._writing = 0
        self._asleep = False

    @property
    def llm(self) -> "AsyncLLM":
        """vLLM's own engine, for what the protocol has no word for."""
        assert self._engine is not None, "start() first"
        return self._engine

    async def start(self) -> None:
        """Import vllm, start its engine process and load the weights, all off the event loop."""
        before = set(multiprocessing.active_children())
        try:
            try:
                await asyncio.to_thread(self._load)
            finally:
                self._processes = [new for new in multiprocessing.active_children() if new not in before]
            await self._warm_up()
            # torch and vllm leave hundreds of thousands of objects that live for ever: frozen, they no longer
            # cost every collection between two tokens.
            await asyncio.to_thread(_freeze)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"vllm could not serve {self._model}: {error}") from error

    async def _warm_up(self) -> None:
        """A few tokens, so that what is built on first use is built now, and a broken engine shows now."""
        sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=4, seed=0, ignore_eos=True)
        prompt = self.encode_chat([Message("user", "1 + 1")])[: self._max_context - 4]
        async for _ in self.generate(SampleRequest("warm-up", prompt, sampling)):
            pass

    def _load(self) -> None:
        go_offline()
        self.load_tokenizer(self._model, self._settings.max_model_len)
        prepare_environment(self._settings)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = engine_arguments(self._model, self._settings, self._max_context) | self._arguments
        if _on_cpu() and self._settings.tensor_parallel_size == 1:
            self._engine = _in_the_engine(arguments)
        else:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one sample; leaving the iterator aborts it in the engine."""
        assert self._engine is not None, "start() first"
        prompt: Any = {"type": "token", "prompt_token_ids": list(request.prompt)}
        stream = self._engine.generate(prompt, _sampling_params(request), request.request_id)
        self._writing += 1
        try:
            async for output in stream:
                yield _chunk(output.outputs[0], output.num_cached_tokens)
        except Exception as error:
            raise EngineError(f"vllm lost the sample: {type(error).__name__}: {error}") from error
        finally:
            self._writing -= 1
            # Closing the inner stream is what makes vllm abort; garbage collection would do it some day.
            await stream.aclose()

    async def abort(self, request_id: str) -> None:
        """End one sample in the engine."""
        if self._engine is not None:
            await self._engine.abort(request_id)

    def hindrance(self) -> str:
        """See `SleepingEngine`."""
        if self._engine is None:
            return "there is no engine"
        return f"{self._writing} samples are being written" if self._writing else ""

    async def sleep(self) -> None:
        """Move the weights to the machine's memory and drop the cache; only pauses where there is no GPU."""
        self._asleep = True
        try:
            await self.llm.sleep(level=1)
        except Exception as error:
            raise EngineError(f"vllm did not fall asleep: {type(error).__name__}: {error}") from error

    async def wake(self) -> None:
        """Move the weights back; at once where it is awake."""
        if not self._asleep:
            return
        try:
            await self.llm.wake_up()
        except Exception as error:
            raise EngineError(f"vllm did not wake: {type(error).__name__}: {error}") from error
        self._asleep = False

    def share(self, make_room: MakeRoom) -> None:
        """It is never started anew: nothing to make room for."""

    async def close(self) -> None:
        """Stop the engine process."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown, END_GRACE)
        # vllm kills its processes and does not wait for them, those of a failed start included.
        processes, self._processes = self._processes, []
        for process in processes:
            await asyncio.to_thread(process.join, LONGEST_END)


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def engine_arguments(model: Path, settings: EngineSettings, max_context: int) -> dict[str, Any]:
    """Arguments of vLLM's engine for a checkpoint under these settings, on the device that is there."""
    cpu = _on_cpu()
    arguments: dict[str, Any] = {
        "model": str(model),
        "trust_remote_code": False,
        "load_format": "safetensors",
        "dtype": "float32" if settings.dtype == "auto" and cpu else settings.dtype,
        "max_model_len": max_context,
        "max_num_seqs": settings.max_num_seqs,
        "enforce_eager": cpu if settings.enforce_eager is None else settings.enforce_eager,
        "enable_prefix_caching": True,
        "stream_interval": STREAM_INTERVAL,
        "disable_log_stats": True,
        "enable_log_requests": False,
        # Sampling is what the settings say, not what the checkpoint's author suggests.
        "generation_config": "vllm",
        "seed": 0,
    }
    if cpu:
        # vLLM 0.32 steps a seeded generator back after a part of a prompt, which torch's on the CPU cannot
        # do: the engine dies of it. Prompts are read whole, so one must fit a step.
        arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_context, 2_048)}
    else:
        arguments |= {
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "kv_cache_dtype": settings.kv_cache_dtype,
        }
        if settings.sleep_mode:
            arguments["enable_sleep_mode"] = True
    return arguments


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def prepare_environment(settings: EngineSettings) -> None:
    """Set variables that vllm reads at import; one that the user set on purpose stays."""
    # The engine process must be spawned: forking a process that runs gRPC threads deadlocks.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_kv_cache_gib))
    # By default one core is kept from the engine; on two cores that is half of the machine.
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    # With every core in use, threads that spin while they wait take the core from the one they wait for:
    # seen here, ten times slower as soon as anything else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.enforce_eager is not False and _torch_is_for_cpu():
        # A count beside each log-probability would be compiled all the same: seconds, and a C++ compiler.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if importlib.util.find_spec("flashinfer_jit_cache") is None:
        # FlashInfer's sampler, which vLLM takes by itself on a GPU, is compiled at its first use unless its
        # kernels lie beside it, and without FlashInfer the engine does not start. vLLM's own needs neither.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    # Its sockets lie in the temporary folder, and the path of a socket has 107 characters at most.
    if len(tempfile.gettempdir()) > LONGEST_TEMPORARY and os.access(SHORT_TEMPORARY, os.W_OK):
        os.environ.setdefault("VLLM_RPC_BASE_PATH", SHORT_TEMPORARY)


def _in_the_engine(arguments: dict[str, Any]) -> Any:
    """An engine on a CPU whose worker is in its own process."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.ompmultiprocessing import OMPProcessManager
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncEngineArgs(**{"distributed_executor_backend": IN_THE_ENGINE, **arguments})
    config = engine.create_engine_config(UsageContext.ENGINE_CONTEXT)
    # Threads and cores, which vLLM would give a worker's process.
    with OMPProcessManager(config).configure_omp_envs(rank=0, local_rank=0):
        return AsyncLLM.from_vllm_config(
            config, enable_log_requests=engine.enable_log_requests, disable_log_stats=engine.disable_log_stats
        )


def _torch_is_for_cpu() -> bool:
    # vllm, which knows, must not be imported before its variables are set.
    import torch

    return torch.version.cuda is None and torch.version.hip is None


def _sampling_params(request: SampleRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop) or None,
        stop_token_ids=list(sampling.stop_token_ids) or None,
        seed=sampling.seed,
        ignore_eos=sampling.ignore_eos,
        logprobs=0,  # the drawn token's own
        output_kind=RequestOutputKind.DELTA,
    )


def _chunk(output: Any, cached: int | None) -> Chunk:
    ids = tuple(output.token_ids)
    rows = output.logprobs or ()
    logprobs = tuple(row[token].logprob for row, token in zip(rows, ids, strict=False))
    reason = output.finish_reason
    if reason not in (None, "stop", "length"):
        # "abort" ends a stream that somebody aborted; "error" is the engine's own failure.
        if reason == "error":
            raise EngineError("vllm ended the sample with an error")
        reason = None
    return Chunk(output.text, ids, logprobs, cast("FinishReason | None", reason), cached)

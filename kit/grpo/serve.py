"""Serve an engine for GRPO's roll-outs, on another node than the trainer's or on other cores.

openssl rand -hex 32 > secret; chmod 600 secret

python -m kit.grpo.serve --model runs/model --host 10.0.0.7 --port 7300 --secret-file secret

The trainer's recipe names it: rollout.sampler = "served", rollout.servers = ["10.0.0.7:7300"],
rollout.secret_file = "secret". It must have the very same model folder. The secret may also stand in the
environment variable AIMO_GRPO_SECRET, on both sides. One trainer is served at a time; when it is gone, the
next. Nothing is written to disk. Weights and completions travel unencrypted: keep to a network of your own.
"""

import asyncio
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from kit.grpo.samplers.host import LocalHost
from kit.grpo.samplers.server import Server
from kit.grpo.samplers.wire import read_secret
from kit.grpo.signals import block
from kit.training.model import find_model
from submission.cli import run
from submission.engines.base import EngineError
from submission.engines.tokenizer import context_length
from submission.settings import EngineSettings

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
_DEFAULTS = EngineSettings()


@app.command(help=__doc__)
def serve(
    model: Annotated[
        str, typer.Option(help="The checkpoint's folder, the same as the trainer's model.path.")
    ],
    host: Annotated[str, typer.Option(help="Address of this machine to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one, and says which.")] = 7300,
    secret_file: Annotated[str, typer.Option(help="File with the secret; else AIMO_GRPO_SECRET.")] = "",
    once: Annotated[bool, typer.Option("--once", help="End when the first trainer is gone.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = _DEFAULTS.dtype,
    max_model_len: Annotated[int, typer.Option(help="Tokens a sample.")] = _DEFAULTS.max_model_len,
    max_num_seqs: Annotated[int, typer.Option(help="Samples in a batch.")] = _DEFAULTS.max_num_seqs,
    gpu_memory_utilization: Annotated[
        float, typer.Option(help="Share of the GPU's memory.")
    ] = _DEFAULTS.gpu_memory_utilization,
    tensor_parallel_size: Annotated[
        int, typer.Option(help="GPUs that hold one copy of the model.")
    ] = _DEFAULTS.tensor_parallel_size,
    cpu_kv_cache_gib: Annotated[
        int, typer.Option(help="Key-value cache, without a GPU.")
    ] = _DEFAULTS.cpu_kv_cache_gib,
) -> None:
    secret = read_secret(secret_file)
    folder = find_model(model, "--model")
    settings = EngineSettings.parse(
        {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel_size,
            "cpu_kv_cache_gib": cpu_kv_cache_gib,
        },
        "the options",
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    asyncio.run(_serve(folder, settings, secret, host, port, once=once))


async def _serve(
    folder: Path, settings: EngineSettings, secret: bytes, address: str, port: int, *, once: bool
) -> None:
    host = LocalHost(folder, settings, "this server")
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    # The engine is ended from here, whoever else gets the signal.
    loop.set_default_executor(ThreadPoolExecutor(initializer=block))
    try:
        await host.start()
        length = min(settings.max_model_len, context_length(folder))
        await Server(host, folder, length, secret, once=once).run(address, port)
    except EngineError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(f"--host {address} --port {port}: {error}") from error
    except asyncio.CancelledError:
        sys.stderr.write("ended by a signal\n")
    finally:
        await host.close()


if __name__ == "__main__":
    run(app)

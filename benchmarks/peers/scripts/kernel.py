"""A Jupyter kernel by jupyter_client's blocking client, as agents drive it.

Settings: {}. Requests: {"code": text, "times": n} runs the code n times in the one warm kernel;
{"fresh": text} starts another kernel, runs the code and ends it, which is what a fresh state takes. The reply
has the `milliseconds` of each time and the last `value`.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

PACKAGES = ("ipykernel", "jupyter-client", "ipython")


@contextmanager
def kernel() -> Iterator[Callable[[str], str]]:
    """A running kernel: code to the text of its last value."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=120)

    def execute(code: str) -> str:
        shown = ""

        def hook(message: dict[str, Any]) -> None:
            nonlocal shown
            if message["msg_type"] == "execute_result":
                shown = message["content"]["data"]["text/plain"]

        client.execute_interactive(code, timeout=60, output_hook=hook)
        return shown

    try:
        yield execute
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def milliseconds_since(began: float) -> float:
    """Since a reading of `time.perf_counter`."""
    return (time.perf_counter() - began) * 1e3


@contextmanager
def opened(_settings: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Code to times and values."""
    with ExitStack() as stack:
        # A person's own kernels, profiles and history stay out of it.
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            os.environ[name] = folder
        os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
        execute = stack.enter_context(kernel())
        prefix = execute("import sys; sys.prefix")
        if prefix != repr(sys.prefix):
            raise ValueError(f"the kernel is of {prefix}, not of the peer's environment {sys.prefix!r}")

        def answer(request: dict[str, Any]) -> Any:
            times, value = [], ""
            if "fresh" in request:
                began = time.perf_counter()
                with kernel() as run:
                    value = run(request["fresh"])
                    times.append(milliseconds_since(began))
                return {"milliseconds": times, "value": value}
            for _ in range(request["times"]):
                began = time.perf_counter()
                value = execute(request["code"])
                times.append(milliseconds_since(began))
            return {"milliseconds": times, "value": value}

        yield answer

"""Imports an own reward function, and calls it in a fresh fork each time.

A fork a call, since then nothing that a call does outlives it: no leaked memory, no changed global, no
thread, no closed descriptor. Its reply comes over a pipe of its own, which is read once the process has
ended, and holds a number that the function was not told: what else is written there, by guess, makes the
reply invalid. The price: what a module sets up on first use is set up at every call, so it belongs on the
module's top level; and CUDA, or a thread started by the import, does not survive a fork.
"""

import contextlib
import importlib
import math
import os
import random
import resource
import secrets
import signal
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from kit.grpo.signals import unblock
from submission.frames import MAX_REPLY, Channel, decode, encode
from submission.processes import die_with

MAX_REWARD = 1e6
"""Rewards further from 0 are a mistake: one such value would be all that a group's mean and spread show."""
_MAX_REASON = 300
_MAX_NAME = 80
_GIB = 1 << 30


def serve(channel: Channel) -> NoReturn:
    """Import the function that the first message names, then call it for each further one; for a fork.

    In: {"function", "memory_gb", "timeout"}, then {"number", "sample"}. Out: {"ready": true} or {"error"},
    then {"number"} with {"value"} or {"failed", "reason"}, one each, and {"signal"} that ended the call.
    """
    setup = channel.receive()
    try:
        function = load(setup["function"])
    # A module's code may raise anything, SystemExit too.
    except BaseException as error:  # noqa: BLE001
        channel.send({"error": describe(error)})
        os._exit(0)
    channel.send({"ready": True})
    while True:
        request = channel.receive()
        reply = _call(function, request["sample"], channel, setup)
        channel.send(reply | {"number": request["number"]})


def load(path: str) -> Callable[[Mapping[str, Any]], Any]:
    """The function at "package.module:attribute"; raises whatever its module's code raises."""
    module_name, _, attribute = path.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in attribute.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"{attribute} is a {type(found).__name__}, not a function")
    function: Callable[[Mapping[str, Any]], Any] = found
    return function


def describe(error: BaseException) -> str:
    """Kind, message and innermost place of an error, on one short line."""
    kind = type(error).__name__[:_MAX_NAME]
    with contextlib.suppress(Exception):  # its __str__ is the user's code as well
        places = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(places[-1].filename).name[-_MAX_NAME:]}:{places[-1].lineno})" if places else ""
        message = " ".join(str(error)[: 4 * _MAX_REASON].split())[:_MAX_REASON]
        # It may quote a completion, and ends up on a terminal.
        return "".join(char if char.isprintable() else "?" for char in f"{kind}: {message}{place}")
    return kind


def _call(
    function: Callable[[Mapping[str, Any]], Any],
    sample: Mapping[str, Any],
    channel: Channel,
    setup: Mapping[str, Any],
) -> dict[str, Any]:
    caller = os.getpid()
    nonce = secrets.token_hex(16)
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            die_with(caller)
            os.setsid()  # so that a signal to its own group reaches nobody else
            unblock()
            channel.close()
            os.close(source)
            _limit_resources(setup)
            random.seed(0)
            os.write(sink, encode({"nonce": nonce, **_result(function, sample)}))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(sink)
    _, status = os.waitpid(pid, 0)
    os.set_blocking(source, False)
    try:
        data = os.read(source, MAX_REPLY)
    except BlockingIOError:  # nothing there, and a child of the call still holds the other end
        data = b""
    os.close(source)
    if not data:
        code = os.waitstatus_to_exitcode(status)
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended itself with code {code}"
        ended = {"signal": -code} if code < 0 else {}
        return {"failed": "crash", "reason": f"its process {end}", **ended}
    reply = decode(data)
    if reply is None or reply.pop("nonce", None) != nonce:
        return {"failed": "invalid", "reason": "it wrote into its worker's pipe"}
    return reply


def _result(function: Callable[[Mapping[str, Any]], Any], sample: Mapping[str, Any]) -> dict[str, Any]:
    try:
        value = function(sample)
        if value is None:
            return {"failed": "none", "reason": "it gave no reward"}
        if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
            return {
                "failed": "invalid",
                "reason": f"it returned a {type(value).__name__[:_MAX_NAME]}, not a number",
            }
        number = float(value)
    except OverflowError as error:
        return {"failed": "invalid", "reason": describe(error)}
    except BaseException as error:  # noqa: BLE001  # whatever it is, it costs this sample alone
        return {"failed": "error", "reason": describe(error)}
    if not math.isfinite(number) or abs(number) > MAX_REWARD:
        return {"failed": "invalid", "reason": f"it returned {number:g}, not within +-{MAX_REWARD:g}"}
    return {"value": number}


def _limit_resources(setup: Mapping[str, Any]) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    held = pages * resource.getpagesize()
    for kind, amount in (
        (resource.RLIMIT_AS, held + int(setup["memory_gb"] * _GIB)),
        (resource.RLIMIT_CORE, 0),
        # Should nobody be left to end it: the kernel does, soon after its time.
        (resource.RLIMIT_CPU, math.ceil(setup["timeout"]) * (os.cpu_count() or 1) + 2),
    ):
        _, hard = resource.getrlimit(kind)
        bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (bound, bound))

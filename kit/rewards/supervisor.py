"""Stands between the trainer and an own reward function; runs none of the user's code itself.

Run as `python -m kit.rewards.supervisor PARENT` by `kit.rewards.functions`, in a session of its own, with
`kit.rewards.functions.MARK` set. It forks a caller (`kit.rewards.caller`), hands samples on to it, and is

- the clock: a call that overruns is killed, its caller stays;
- the parent of all orphans: after every call, what the call left behind is killed, setsid or not;
- the end of all of them when the trainer is gone: at the end of its input, or when its parent changes. If the
  supervisor itself is killed, the kernel kills the caller and the call.

What a launcher sends to all processes of a job (`kit.grpo.signals`) is blocked here and in the caller, not in
a call, which may start programs and end them: a call during which it came is told of, to be made again.

The protocol keeps the real stdin and stdout and the caller closes them; to the user's code 0, 1 and 2 are
/dev/null.
"""

import itertools
import os
import select
import signal
import sys
import time
from typing import Any

from kit.grpo.signals import SIGNALS, taken
from kit.rewards.caller import serve
from kit.rewards.functions import END
from submission.frames import MAX_REPLY, Channel, ClosedError
from submission.processes import adopt_orphans, die_with, end_own_children, kill_children

GRACE_SECONDS = 5.0
"""For the caller to report a call that was killed."""


class _EndedError(BaseException):
    """The trainer is gone, or wants this worker gone."""


def main() -> None:
    """Serve until the trainer closes the pipe, ends, or sends `END`; leaves no process behind."""
    signal.signal(END, _end)
    parent = int(sys.argv[1])
    source, sink = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    clean = False
    try:
        adopt_orphans()
        _serve(Channel(source, sink, watch=lambda: _check_parent(parent, source)), parent, source)
    except (_EndedError, ClosedError):
        pass
    finally:
        signal.signal(END, signal.SIG_IGN)
        clean = end_own_children()
        os._exit(0 if clean else 1)


def _end(*_: object) -> None:
    raise _EndedError


def _check_parent(parent: int, source: int) -> None:
    """Both signs, since a fork of the trainer's may hold our pipe open after the trainer's death."""
    poller = select.poll()
    poller.register(source, 0)
    if os.getppid() != parent or poller.poll(0):
        raise _EndedError


def _serve(trainer: Channel, parent: int, source: int) -> None:
    setup = trainer.receive()
    caller_pid, caller = _fork_caller(trainer, parent, source)
    caller.send(setup)
    try:
        ready = caller.receive(time.monotonic() + setup["start_timeout"])
    except TimeoutError:
        ready = {"error": f"the import did not end within {setup['start_timeout']:g} s"}
    except ClosedError:
        ready = {"error": "the import ended the process"}
    trainer.send(ready)
    for number in itertools.count() if "ready" in ready else ():
        request = {"number": number, "sample": trainer.receive()}
        taken()
        reply, usable = _call(caller, caller_pid, request, setup["timeout"])
        usable = end_own_children(spare=[caller_pid] if usable else []) and usable
        # The call may have been met first.
        disturbed = reply.pop("signal", None) in SIGNALS
        trainer.send(reply | {"usable": usable, "disturbed": taken() or disturbed})
        if not usable:
            return


def _fork_caller(trainer: Channel, parent: int, source: int) -> tuple[int, Channel]:
    supervisor = os.getpid()
    down, up = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(END, signal.SIG_DFL)
            die_with(supervisor)
            os.setsid()
            trainer.close()
            os.close(down[1])
            os.close(up[0])
            serve(Channel(down[0], up[1]))
        finally:
            os._exit(1)
    os.close(down[0])
    os.close(up[1])
    return pid, Channel(up[0], down[1], limit=MAX_REPLY, watch=lambda: _check_parent(parent, source))


def _call(
    caller: Channel, caller_pid: int, request: dict[str, Any], timeout: float
) -> tuple[dict[str, Any], bool]:
    """The reply, and whether the caller can go on."""
    deadline = time.monotonic() + timeout
    try:
        caller.send(request, deadline)
        reply = caller.receive(deadline)
    except ClosedError:
        return {"failed": "crash", "reason": "its worker was ended"}, False
    except TimeoutError:
        return {"failed": "timeout", "reason": f"it took over {timeout:g} s"}, _end_call(caller, caller_pid)
    if reply.pop("number", None) != request["number"]:
        return {"failed": "invalid", "reason": "its module wrote into the worker's pipe"}, False
    return reply, True


def _end_call(caller: Channel, caller_pid: int) -> bool:
    """Kill the call, and wait for its caller to say so; whether it did."""
    kill_children(caller_pid)
    try:
        caller.receive(time.monotonic() + GRACE_SECONDS)
    except (ClosedError, TimeoutError):
        return False
    return True


if __name__ == "__main__":
    main()

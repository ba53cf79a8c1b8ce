"""What has the signals of a cluster blocked, and what not."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from kit.grpo.recipe import ToolSection
from kit.grpo.samplers.host import LocalHost
from kit.grpo.samplers.loop import Loop
from kit.grpo.signals import SIGNALS, block, blocked, taken
from submission.settings import EngineSettings

SLEEP = ["/bin/sleep", "60"]
# Multiprocessing unblocks TERM and INT in the thread that starts its tracker.
TRACKER = (
    "import signal\n"
    "from multiprocessing import resource_tracker\n"
    "from kit.grpo.signals import SIGNALS, block, blocked\n"
    "block()\n"
    "with blocked():\n"
    "    resource_tracker.ensure_running()\n"
    "assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == SIGNALS\n"
    "status = open(f'/proc/{resource_tracker._resource_tracker._pid}/status').read()\n"
    "mask = int(status.partition('SigBlk:')[2].split()[0], 16)\n"
    "assert mask >> signal.SIGUSR1 - 1 & 1 and mask >> signal.SIGUSR2 - 1 & 1\n"
)


def mask_of(pid: int) -> set[int]:
    """Signals that a process has blocked."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    bits = int(status.partition("SigBlk:")[2].split()[0], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def mask_of_a_child() -> set[int]:
    process = subprocess.Popen(SLEEP)
    try:
        return mask_of(process.pid)
    finally:
        process.kill()
        process.wait()


def test_children_inherit_it_and_it_ends_with_the_block() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with blocked():
        inside = mask_of_a_child()
        with blocked():
            pass
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= SIGNALS
    assert inside >= SIGNALS
    assert not mask_of_a_child() & SIGNALS
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_blocked_signal_is_taken_once_and_ends_nothing() -> None:
    code = (
        "import os, signal\n"
        "from kit.grpo.signals import SIGNALS, block, taken, unblock\n"
        "block()\n"
        "for number in SIGNALS: os.kill(os.getpid(), number)\n"
        "assert taken() and not taken()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "unblock()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGTERM
    assert not taken()


def test_threads_of_a_sampler_start_what_is_deaf_and_this_one_is_not() -> None:
    import asyncio

    async def directly() -> set[int]:
        return mask_of_a_child()

    async def beside() -> set[int]:
        return await asyncio.to_thread(mask_of_a_child)

    loop = Loop()
    try:
        assert loop.run(directly()) >= SIGNALS
        assert loop.run(beside()) >= SIGNALS
        assert not mask_of_a_child() & SIGNALS
    finally:
        loop.close()
    with ThreadPoolExecutor(1, initializer=block) as pool:
        assert pool.submit(mask_of_a_child).result() >= SIGNALS
    assert not mask_of(os.getpid()) & SIGNALS


def test_a_sandbox_keeps_its_variables_and_closes_at_once() -> None:
    host = LocalHost(Path("unused"), EngineSettings(), "here")
    others = set(psutil.Process().children())
    host.equip(ToolSection.parse({"sandbox": {"workers": 1, "preload": ["math"]}}, "the test"))
    try:
        assert host._sandbox is not None
        with host._sandbox.session() as session:
            assert session.run_sync("x = 6", timeout=10).error == ""
            (server,) = set(psutil.Process().children()) - others
            for process in (server, *server.children(recursive=True)):
                for number in SIGNALS:
                    process.send_signal(number)
            assert session.run_sync("x * 7", timeout=10).value == "42"
        assert server.is_running()
    finally:
        begun = time.monotonic()
        host.equip(None)
    assert time.monotonic() - begun < 5
    assert not server.is_running()


def test_multiprocessings_tracker_unblocks_nothing_here() -> None:
    subprocess.run([sys.executable, "-c", TRACKER], check=True)

"""Processes end with the one that started them, however it ends, and nobody else's do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kit.grpo.samplers.watch import MARK, Watch, marked
from tests.kit.grpo.processes import gone

# A child that starts a grandchild, in a session of its own, and says both numbers.
NEST = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'],"
    " start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
OWNER = (
    "import os, subprocess, sys, time\n"
    "from kit.grpo.samplers.watch import Watch\n"
    "watch = Watch()\n"
    f"child = subprocess.Popen([sys.executable, '-S', '-c', {NEST!r}], env=os.environ | watch.environment)\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def stranger() -> Iterator[int]:
    """With another owner's mark."""
    process = subprocess.Popen(SLEEP, env=os.environ | {MARK: "another"})
    yield process.pid
    assert process.poll() is None
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_is_marked_ends_with_the_owner(stranger: int, number: int) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = {int(owner.stdout.readline()), int(owner.stdout.readline())}
    owner.send_signal(number)
    owner.wait()
    assert gone(pids, 10)
    owner.stdout.close()


def test_a_watch_that_is_closed_ends_what_is_left(stranger: int) -> None:
    watch = Watch()
    mark = watch.environment[MARK]
    process = subprocess.Popen(SLEEP, env=os.environ | watch.environment)
    while process.pid not in marked(mark):  # until it is exec'ed
        time.sleep(0.01)
    watch.close()
    watch.close()
    assert process.wait(5) == -signal.SIGKILL
    assert marked(mark) == []


def test_signals_to_all_do_not_end_the_watch() -> None:
    """A launcher's: the owner may want to save, with its engine."""
    watch = Watch()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(watch._script.pid, number)
    time.sleep(0.1)
    assert watch._script.poll() is None
    watch.close()
    assert watch._script.returncode == 0

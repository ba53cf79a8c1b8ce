"""Signals, sent for real."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kit.training.signals import REQUEUE_EXIT_CODE, StopRequest


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_a_signal_only_sets_the_request(name: str) -> None:
    with StopRequest() as stop:
        assert (stop.requested, stop.exit_code) == (None, 0)
        for _ in range(3):
            os.kill(os.getpid(), getattr(signal, name))
        assert stop.requested == name
        assert stop.exit_code == REQUEUE_EXIT_CODE == 85


def test_interrupting_stops_without_requeue_and_twice_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.requested, stop.exit_code) == ("SIGINT", 130)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_first_signal_counts() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == "SIGUSR1"


def test_previous_handlers_come_back() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    others = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(RuntimeError), StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            raise RuntimeError
        assert stop.requested == "SIGUSR1"
        assert seen == []
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]
        assert {number: signal.getsignal(number) for number in others} == others
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_forked_worker_dies_of_the_signal() -> None:
    with StopRequest() as stop:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"x")
            time.sleep(30)
            os._exit(0)
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert stop.requested is None


@pytest.mark.slow
def test_a_whole_process_ends_with_the_requeue_code() -> None:
    """Two TERMs from outside: the "save" after the first one is finished."""
    script = """
import sys, time
from kit.training.signals import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("saving", flush=True)
    time.sleep(0.5)
    print("saved", flush=True)
sys.exit(stop.exit_code)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "saving\n"
        process.terminate()
        assert process.stdout.read() == "saved\n"
        assert process.wait(20) == REQUEUE_EXIT_CODE

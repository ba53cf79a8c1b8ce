"""A rank hears signals from its first line on, and a file besides."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = """
import sys, time
from pathlib import Path
from kit.launch.rank import Early
from kit.training.signals import StopRequest
early = Early(Path(sys.argv[1]))
print("loading", flush=True)
time.sleep(float(sys.argv[2]))
with StopRequest() as stop:
    print("training", flush=True)
    until = time.monotonic() + 20
    while not (stop.requested and early.asked) and time.monotonic() < until:
        time.sleep(0.02)
    print(stop.requested, stop.exit_code, early.asked)
"""


@pytest.mark.parametrize(
    ("when", "how", "heard"),
    [
        ("loading", signal.SIGTERM, "SIGTERM"),
        pytest.param("training", signal.SIGUSR2, "SIGUSR2", marks=pytest.mark.slow),
        pytest.param("loading", None, "SIGUSR1", marks=pytest.mark.slow),
        ("training", None, "SIGUSR1"),
    ],
)
def test_a_stop_is_never_missed(tmp_path: Path, when: str, how: signal.Signals | None, heard: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path), "0.4" if when == "loading" else "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == when:
            break
    time.sleep(0.1)
    if how is None:
        (tmp_path / "stop").touch()
    else:
        process.send_signal(how)
    assert process.communicate(timeout=60)[0].splitlines()[-1] == f"{heard} 85 True"
    assert process.returncode == 0

"""The PRM's process ends with the contest's, whatever it is at."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from submission.settings import EngineSettings

ROOT = Path(__file__).resolve().parents[3]
PARENT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from submission.prm.vllm_scorer import _Child
child = _Child()
child._channel.send({"folder": "x", "head": "logprob", "context": 64, "settings": json.loads(sys.argv[2])})
print(child._process.pid, flush=True)
time.sleep(600)
"""
LONG = """
import pathlib, time
pathlib.Path(__file__).with_name("begun").touch()
time.sleep(600)
"""


@pytest.mark.slow
def test_it_ends_in_the_midst_of_a_long_call(tmp_path: Path) -> None:
    """An import of vllm that takes ten minutes stands for a long batch: the pipe is not read meanwhile."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(LONG)
    settings = EngineSettings().model_dump_json()
    command = [sys.executable, "-c", PARENT, str(tmp_path), settings]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "vllm" / "begun").exists():
            assert time.monotonic() < deadline and child.is_running()
            time.sleep(0.02)
        parent.kill()
        parent.wait()
        assert psutil.wait_procs([child], timeout=10)[1] == []
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        if child.is_running():
            child.kill()

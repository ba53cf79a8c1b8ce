import os
import subprocess
import sys
from pathlib import Path

import pytest

from submission.offline import SWITCHES, go_offline


def test_a_switch_left_open_by_training_is_forced_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.setenv(name, "0")
    go_offline()
    assert {name: os.environ[name] for name in SWITCHES} == SWITCHES
    # And children inherit it.
    code = "import os; print(os.environ['HF_HUB_OFFLINE'], os.environ['DO_NOT_TRACK'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.slow
def test_the_libraries_themselves_see_the_switches(tmp_path: Path) -> None:
    code = """
from submission.offline import go_offline
go_offline()
import huggingface_hub.constants as hub
import transformers.utils.hub as transformers_hub
import vllm.envs as envs
assert hub.HF_HUB_OFFLINE and hub.HF_HUB_DISABLE_TELEMETRY
assert transformers_hub.is_offline_mode()
assert envs.VLLM_NO_USAGE_STATS and envs.VLLM_DO_NOT_TRACK and not envs.VLLM_USE_MODELSCOPE
print("offline")
"""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "0", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("offline")

import os
from pathlib import Path

import pytest

from submission.machine import Gpu, find_gpus, machine_memory, parse_nvidia_smi, this_machine


def test_nvidia_smi_is_read() -> None:
    listed = "NVIDIA H100 80GB HBM3, 81559\nTesla T4, 15360\n\n"
    assert parse_nvidia_smi(listed) == (Gpu("NVIDIA H100 80GB HBM3", 81_559 / 1024), Gpu("Tesla T4", 15.0))
    assert parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver") == ()


SMI = """#!/bin/sh
echo "NVIDIA H100 80GB HBM3, 81559"
"""


def test_a_driver_without_a_torch_that_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi lists a GPU, and the interpreter that is asked has no torch."""
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_gpus(ask_torch=False) == ((Gpu("NVIDIA H100 80GB HBM3", 81_559 / 1024),), "")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    gpus, trouble = find_gpus()
    assert gpus is not None and gpus[0].name == "NVIDIA H100 80GB HBM3"
    assert trouble == "torch fails: ModuleNotFoundError: No module named 'torch'"
    python.write_text("#!/bin/sh\necho '[[\"NVIDIA L4\", 24000000000]]'\n")
    gpus, trouble = find_gpus()
    assert gpus == (Gpu("NVIDIA L4", 24e9 / 2**30),) and not trouble


def test_memory_of_the_machine() -> None:
    assert 2**28 < machine_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_this_machine() -> None:
    machine = this_machine(ask_torch=False)
    assert machine.cores >= 1 and machine.memory == machine_memory() and machine.python.startswith("3.")

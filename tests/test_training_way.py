"""docs/training.md and the README are true about training: their commands run, in their order, shortened."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[1]
NEEDS_ELSEWHERE = ("data_math", "kit.traces")
"""Commands whose inputs a clean machine does not have; the tests of their packages run them."""


def commands(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.search(r"-m kit\.(train|small|data|traces)\b", line)]


def run(line: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    words = shlex.split(line, comments=True)
    if words[0] == "python":
        words[0] = sys.executable
    else:
        assert words[0] == "torchrun"
        words[:1] = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    if "distill" in words and "--dry-run" not in words:
        words += ["batch.max_steps=3", "evaluation.every=2", "evaluation.rows=20"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "recipes").symlink_to(ROOT / "kit" / "recipes")
    lines = commands("docs/training.md")
    assert len(lines) >= 5
    for line in lines:
        if not any(mark in line for mark in NEEDS_ELSEWHERE):
            run(line, tmp_path)
    for name in ("distill_cpu", "two_ranks"):
        assert (tmp_path / "runs" / name / "model" / "model.safetensors").is_file()


def test_the_readme_names_only_commands_of_the_page() -> None:
    known = set(commands("docs/training.md"))
    said = [re.sub(r"\s+#.*", "", line) for line in commands("README.md")]
    assert said
    assert [line for line in said if line not in known and "kit.traces" not in line] == []

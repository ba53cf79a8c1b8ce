"""README and docs/training.md are true about training: their commands run, in their order, shortened."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.shared import shared_file
from tests.tiny import make_tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[1]
SETS = "path/to/sets"
SHORTER = {
    "train distill": ["batch.max_steps=3", "evaluation.every=2", "evaluation.rows=20"],
    "train grpo": ["batch.num_episodes=2", "batch.batch_size=2", "evaluation.every=2", "evaluation.rows=20"],
    "train prm": ["evaluation.rows=8", "batch.max_steps=2", "evaluation.every=2"],
    "kit.steps": ["--max-tokens", "16", "--engine", "transformers"],
    "kit.traces": ["--max-tokens", "16", "--engine", "transformers"],
}


def commands(page: str) -> list[str]:
    """The lines of a page that are about training."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.search(r"-m kit\.(train|small|data|traces|steps)\b", line)]


def run(line: str, folder: Path) -> str:
    filled = line.replace("path/to/checkpoint", "checkpoint").replace("path/to/traces", "solutions")
    if SETS in line:
        sets = shared_file("math/train_7474.json")
        if sets is None:
            return "left out: no public sets on this machine"
        filled = filled.replace(SETS, str(sets.parents[1]))
    words = shlex.split(filled, comments=True)
    if words[0] == "python":
        words[0] = sys.executable
    else:
        assert words[0] == "torchrun"
        words[:1] = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for mark, more in SHORTER.items():
        if mark in line and "--dry-run" not in line:
            words += more
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def write_solutions(path: Path) -> None:
    """Worked sums, one right and one wrong of each, as `kit.steps` labels them."""
    rows = [
        {"problem": f"What is {a}+{a}?", "answer": str(2 * a), "completion": f"{a}+{a}\n\n\\boxed{{{said}}}"}
        for a in range(1, 5)
        for said in (2 * a, 9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_commands_run(tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "recipes").symlink_to(ROOT / "kit" / "recipes")
    make_tiny_checkpoint(tmp_path / "checkpoint", max_positions=512)
    (tmp_path / "problems.csv").write_text("problem,answer\nWhat is 1+1?,2\nWhat is 2+2?,4\n")
    write_solutions(tmp_path / "solutions.jsonl")
    pages = ("README.md", "docs/training.md", "docs/prm.md")
    lines = list(dict.fromkeys(line for page in pages for line in commands(page)))
    assert len(lines) >= 6
    said = {line: run(line, tmp_path) for line in lines}
    for name in ("distill_cpu", "two_ranks", "grpo_cpu", "prm_cpu", "prm_two_ranks"):
        assert (tmp_path / "runs" / name / "model" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "traces" / "traces.jsonl").is_file()
    (plan,) = [text for line, text in said.items() if "distill_qwen32b" in line]
    assert "32,763,876,352" in plan and "GB" in plan

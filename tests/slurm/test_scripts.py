"""The batch scripts as they are, and all shell of the repository: read by bash and by shellcheck."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = """\
#!/usr/bin/env bash
#SBATCH --job-name=aimo-{phase}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
exec "${{AIMO_ROOT:-$SLURM_SUBMIT_DIR}}/slurm/run.sh" kit.launch.batch {phase} "$@"
"""
SHELL = sorted(
    path
    for path in (ROOT / "slurm").rglob("*")
    if path.suffix in (".sh", ".sbatch") or path.name == "site.env.example"
)


@pytest.mark.parametrize("phase", ["distill", "grpo", "prm", "eval"])
def test_a_batch_script_is_a_header_and_one_command(phase: str) -> None:
    assert (ROOT / "slurm" / f"{phase}.sbatch").read_text() == HEADER.format(phase=phase)


@pytest.mark.parametrize("path", SHELL, ids=[path.name for path in SHELL])
def test_shell_is_sound(path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n", path], check=True, timeout=20)
    beside = str(Path(sys.executable).parent)
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=beside)
    if shellcheck is None:
        pytest.skip("bash -n passed; shellcheck is not installed")
    done = subprocess.run(
        [shellcheck, "--shell=bash", "--external-sources", "--source-path=SCRIPTDIR", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def run_sh(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """slurm/run.sh, with a Python that tells what it was given."""
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$@"\necho "$PYTHONPATH|$PYTHONSAFEPATH|${FROM_SITE:-}"\n')
    python.chmod(0o755)
    return subprocess.run(
        [ROOT / "slurm" / "run.sh", "kit.launch.batch", "grpo", "a b"],
        cwd=folder,
        env={"PATH": f"{folder}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_run_sh_takes_the_code_of_its_root_and_the_sites_settings(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "slurm").mkdir(parents=True)
    # As conda's scripts do, it reads a variable that is not set.
    (root / "slurm" / "site.env").write_text('export FROM_SITE="read$NOT_SET"\n')
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for place in ("AIMO_ROOT", "SLURM_SUBMIT_DIR"):
        done = run_sh(folder, **{place: str(root)})
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["-m kit.launch.batch grpo a b", f"{root}:{folder}|1|read"]
    own = tmp_path / "own.env"
    own.write_text("export FROM_SITE=own\n")
    assert run_sh(folder, AIMO_ROOT=str(root), AIMO_SITE=str(own)).stdout.endswith("|own\n")


def test_run_sh_fails_outside_a_job(tmp_path: Path) -> None:
    done = run_sh(tmp_path)
    assert done.returncode != 0
    assert "SLURM_SUBMIT_DIR: unbound variable" in done.stderr

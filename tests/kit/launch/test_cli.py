"""The command line without a cluster: what a dry run shows, in full, and what is refused."""

import re
import sys
from pathlib import Path

import pytest

from kit.launch.resources import SITE
from tests.kit.launch.made import launch, make_place

pytestmark = pytest.mark.usefixtures("place")

# Every sinfo of these tests: a partition of four nodes with two GPUs each, and a debug one of half an hour.
SINFO = """#!/bin/sh
for n in 1 2 3 4; do echo "batch*|node$n|idle|8|8000|1-00:00:00|1-infinite|gpu:2"; done
for n in 1 2; do echo "debug|node$n|idle|8|8000|30:00|1-infinite|gpu:2"; done
"""
GRPO = """\
# sbatch: grpo
#!/bin/bash

# Parameters
#SBATCH --account=math
#SBATCH --error=PLACE/runs/grpo/launch/jobs/%j_0_log.err
#SBATCH --gpus-per-node=2
#SBATCH --job-name=aimo-grpo
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=6G
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=PLACE/runs/grpo/launch/jobs/%j_0_log.out
#SBATCH --partition=batch
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --signal=B:USR2@300
#SBATCH --time=720

# setup
export AIMO_ROOT=PLACE/runs/grpo/launch/CODE
export AIMO_PYTHON=PYTHON

# command
export SUBMITIT_EXECUTOR=slurm
exec "$AIMO_ROOT/slurm/run.sh" submitit.core._submit PLACE/runs/grpo/launch/jobs

# grpo: 2 nodes, each 2 ranks of
python -m kit.train grpo grpo.toml lr=1e-6
# started by
srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=NODE1,NODE2 --kill-on-bad-exit=1 --cpu-bind=none \
slurm/run.sh kit.launch.node runs/grpo/launch/JOB.0
# grpo: 1 node, for every engine that fits its GPUs
python -m kit.grpo.serve --once --model model --host NODE --port PORT --secret-file SECRET --dtype auto \
--max-model-len 40960 --max-num-seqs 64 --gpu-memory-utilization 0.92 --tensor-parallel-size 1 \
--cpu-kv-cache-gib 2
# started by
srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --nodelist=NODE3 --kill-on-bad-exit=1 --cpu-bind=none \
slurm/run.sh kit.launch.node runs/grpo/launch/JOB.0
# with the environment
AIMO_ROOT=PLACE/runs/grpo/launch/CODE
AIMO_PYTHON=PYTHON
PYTHONPATH=$AIMO_ROOT:$PWD PYTHONSAFEPATH=1
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recipes in a folder, and a Slurm of which only sinfo answers."""
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    sinfo = tmp_path / "bin" / "sinfo"
    sinfo.write_text(SINFO)
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for name in ("AIMO_SITE", *SITE.values()):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def filled(text: str, place: Path) -> str:
    return text.replace("PLACE", str(place)).replace("PYTHON\n", f"{sys.executable}\n")


def test_a_dry_run_shows_script_commands_and_environment_and_writes_nothing(place: Path) -> None:
    words = (
        "--nodes 3 --gpus-per-node 2 --generator-nodes 1 --partition batch --account math --time 12h --mem 6G"
    )
    done = launch(
        *("grpo", "grpo.toml", "lr=1e-6", *words.split(), "--slurm", "qos=high"),
        *("--signal-seconds", "300", "--dry-run"),
    )
    assert (done.code, done.err) == (0, "")
    assert re.sub(r"code-[0-9a-f]{16}", "CODE", done.out) == filled(GRPO, place)
    assert not (place / "runs").exists()


def test_a_sweep_is_one_array_with_a_folder_for_each_run(place: Path) -> None:
    done = launch("distill", "distill.toml", "--array", "lr=1e-3,2e-3", "--array", "seed=1,2", "--dry-run")
    assert done.code == 0, done.err
    assert done.out.startswith("# sbatch: 4 runs\n")
    assert "\n#SBATCH --array=0-3%4\n" in done.out
    assert f"\n#SBATCH --output={place}/runs/distill/launch/jobs/%A_%a_0_log.out\n" in done.out
    for lr in ("1e-3", "2e-3"):
        for seed in (1, 2):
            line = f"distill.toml lr={lr} seed={seed} out=runs/distill/lr={lr},seed={seed}\n"
            assert f"python -m kit.train distill {line}" in done.out


def test_jobs_to_wait_for_reach_sbatch() -> None:
    done = launch("prm", "prm.toml", "--after", "12", "--after", "34_1", "--dry-run")
    assert "\n#SBATCH --dependency=afterok:12:34_1\n" in done.out


def test_a_contest_is_launched_with_its_own_options() -> None:
    done = launch(
        "eval", "--bundle", "b", "--problems", "p.csv", "--time-limit=60", "--dry-run", "--time", "1h"
    )
    assert done.code == 0, done.err
    assert "python -m submission --bundle b --problems p.csv --time-limit=60\n" in done.out
    assert "\n#SBATCH --time=60\n" in done.out


def test_site_settings_are_named_to_the_job(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "my.env").write_text("module load cuda\n")
    monkeypatch.setenv("AIMO_SITE", "my.env")
    assert f"\nexport AIMO_SITE={place}/my.env\n" in launch("prm", "prm.toml", "--dry-run").out


def test_the_sites_own_settings_hold_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"PARTITION": "debug", "TIMELIMIT": "20", "GPUS_PER_NODE": "2"}.items():
        monkeypatch.setenv(f"SBATCH_{key}", value)
    said = launch("prm", "prm.toml", "--dry-run").out
    assert "\n#SBATCH --gpus-per-node=2\n" in said and "\n#SBATCH --partition=debug\n" in said
    assert "\n#SBATCH --time=20\n" in said
    said = launch("prm", "prm.toml", "--partition", "batch", "--time", "2h", "--dry-run").out
    assert "\n#SBATCH --partition=batch\n" in said and "\n#SBATCH --time=120\n" in said
    refused = launch("prm", "prm.toml", "--time", "2h", "--dry-run")
    assert refused.code == 2 and "partition debug ends jobs after 30" in refused.err


def test_on_this_machine_there_is_no_script() -> None:
    done = launch("distill", "distill.toml", "--ranks-per-node", "2", "--cluster", "local", "--dry-run")
    assert done.out.startswith(
        "# distill: 1 node, each 2 ranks of\npython -m kit.train distill distill.toml\n"
    )


def test_without_slurm_a_dry_run_says_so_and_a_submission_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = launch("prm", "prm.toml", "--dry-run")
    assert done.code == 0 and "note: not compared with a cluster: no Slurm here" in done.err
    done = launch("prm", "prm.toml")
    assert done.code == 2 and "--cluster local runs on this machine" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("grpo nothing.toml", "recipe nothing.toml cannot be read"),
        ("grpo grpo.toml lrr=1", "unknown key 'lrr' (did you mean 'optimizer.lr'?)"),
        ("grpo grpo.toml every=1", "'every' is ambiguous; name one of checkpoint.every, evaluation.every"),
        ("grpo grpo.toml lr=-1", "optimizer.lr: Input should be greater than 0"),
        ("grpo grpo.toml data.path=gone.jsonl", "data.path gone.jsonl is not there"),
        ("grpo grpo.toml model.path=gone", "gone: no such folder here"),
        ("grpo grpo.toml assume.gpu_memory_gb=0.001", "GB a GPU is needed"),
        (
            "grpo grpo.toml --partition nope",
            "--partition nope: there is none of that name; there are batch, debug",
        ),
        ("grpo grpo.toml --nodes 5", "--nodes 5: partition batch has 4 nodes"),
        ("grpo grpo.toml --gpus-per-node 3", "no node of partition batch has more than 2 GPUs"),
        (
            "grpo grpo.toml --partition debug --time 1h",
            "partition debug ends jobs after 30; longer ones: batch",
        ),
        ("grpo grpo.toml --mem 9G", "--mem 9216: no node of partition batch has more than 8000 MiB"),
        ("grpo grpo.toml --time soon", "time 'soon' is not of a form"),
        ("grpo grpo.toml --slurm foo=1", "--slurm foo: unknown parameter"),
        ("grpo grpo.toml --generator-nodes 1", "leaves none to train"),
        ("prm prm.toml --generator-nodes 1 --nodes 2", "--generator-nodes is grpo's"),
        ("prm prm.toml --array lr=1,", "not of the form key=value,value"),
        ("prm prm.toml --array lr=1,x", "optimizer.lr: Input should be a valid number"),
        ("prm prm.toml --nodes 2 --cluster local", "--nodes 2 --cluster local: this machine is one node"),
        ("eval --bundle b", "eval needs --problems"),
        ("pipeline nothing.toml", "recipe nothing.toml cannot be read"),
        ("status nowhere", "no job was launched for a run in nowhere"),
        ("logs 12", "no job was launched for a run in runs"),
    ],
)
def test_a_mistake_is_told_before_anything_is_submitted(words: str, message: str, place: Path) -> None:
    done = launch(*words.split())
    assert done.code == 2 and message in done.err, done.err
    assert not (place / "runs").exists()

"""Jobs of all phases on a real Slurm: the numbers of ranks without it, engines on other nodes, contests."""

import csv
from pathlib import Path
from typing import Any

import pytest

from kit.training.recipe import TrainRecipe
from submission.engines.replay import write_recording
from tests.kit.distill import made as distill
from tests.kit.grpo import made as grpo
from tests.kit.package.made import make_bundle, make_checkpoint
from tests.kit.prm import made as prm
from tests.kit.training.workers import launch
from tests.lab import Lab
from tests.slurm.made import history, kill_on, losses, training_again, weights, write_recipe
from tests.submission.virtual import boxed
from tests.tiny import make_tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PHASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "distill": (distill.distill_recipe, distill.train, {"batch": {"max_steps": 8}}),
    "grpo": (grpo.grpo_recipe, grpo.train, {"batch": {"num_episodes": 3}}),
    "prm": (prm.prm_recipe, prm.train, {"batch": {"max_steps": 6}, "evaluation": {"every": 0}}),
}


@pytest.fixture(scope="module")
def without_slurm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, TrainRecipe]]:
    """Folder and recipe of each phase, trained on 4 ranks that no Slurm and no torchrun started."""
    found = {}
    for phase, (make, train, sections) in PHASES.items():
        folder = tmp_path_factory.mktemp(phase)
        recipe = make(folder, **sections)
        launch(train, 4, recipe.model_dump(mode="json")).result  # noqa: B018 - it asserts that all ended well
        write_recipe(folder / "recipe.toml", recipe)
        found[phase] = (folder, recipe)
    return found


def test_two_nodes_and_two_ranks_are_four_ranks_and_one_node_and_four(
    lab: Lab, without_slurm: dict[str, tuple[Path, TrainRecipe]]
) -> None:
    """On two nodes one rank a GPU: they have two, which nobody counts for the job."""
    jobs, alone = {}, {}
    for phase, (folder, _) in without_slurm.items():
        script, flags = f"slurm/{phase}.sbatch", ["--nodes=2", "--gres=gpu:2"]
        jobs[phase] = lab.submit(folder, script, "recipe.toml", "out=on_slurm", flags=flags)
        alone[phase] = lab.submit(folder, script, "recipe.toml", "out=one_node", "--ranks-per-node=4")
    for phase, (folder, recipe) in without_slurm.items():
        for name, job in (("on_slurm", jobs[phase]), ("one_node", alone[phase])):
            lab.wait(job, "COMPLETED", seconds=500, folder=folder)
            assert losses(folder / name) == losses(recipe.out), (phase, name)
            assert weights(folder / name) == weights(recipe.out), (phase, name)
    folder, _ = without_slurm["grpo"]
    (start,) = history(folder / "on_slurm").attempts
    logs = folder / "on_slurm" / "launch" / f"{jobs['grpo']}.0" / "logs"
    for node in start.nodes:
        assert len(list((logs / node).rglob("stderr.log"))) == 2


def test_a_cancelled_job_goes_on_elsewhere(
    lab: Lab, without_slurm: dict[str, tuple[Path, TrainRecipe]]
) -> None:
    """Cancelled on two nodes, it stays away; submitted again on one, it goes on from its checkpoint."""
    folder, recipe = without_slurm["grpo"]
    out = folder / "moved"
    functions = "rewards.functions={'tests.slurm.pacing:letters'=1.0}"
    words = ["recipe.toml", "out=moved", functions, "batch.num_episodes=6"]
    (folder / "pace").write_text("0.2")
    first = lab.submit(folder, "slurm/grpo.sbatch", *words, flags=["--nodes=2"])
    lab.until(first, "training", training_again(lab, folder, out, first, 0), folder=folder)
    lab.command("scancel", first)
    lab.wait(first, "CANCELLED", folder=folder)
    (folder / "pace").unlink()
    second = lab.submit(folder, "slurm/grpo.sbatch", *words, flags=["--nodes=1"])
    lab.wait(second, "COMPLETED", folder=folder)
    starts = history(out).attempts
    assert [start.job for start in starts] == [first, second]
    assert starts[1].progress > 0
    assert len(losses(out)) == 6
    # Another number of ranks sums in another order.
    assert losses(out)[:3] == pytest.approx(losses(recipe.out), rel=1e-4, abs=1e-6)


def test_mistakes_and_hopeless_jobs_end(lab: Lab, without_slurm: dict[str, tuple[Path, TrainRecipe]]) -> None:
    folder, _ = without_slurm["distill"]
    wrong = lab.submit(folder, "slurm/distill.sbatch", "recipe.toml", "optimizer.lrr=1", "out=wrong")
    lost = lab.submit(folder, "slurm/distill.sbatch", "recipe.toml", "out=lost", "data.path=nowhere.jsonl")
    full = lab.small / "full"
    full.mkdir()
    words = ["recipe.toml", f"out={full}", "--max-stalls=2", "batch.max_steps=3"]
    with lab.full_disk():
        hopeless = lab.submit(folder, "slurm/distill.sbatch", *words)
        lab.wait(hopeless, "FAILED", folder=folder)
    lab.wait(wrong, "FAILED", folder=folder)
    said = lab.output(folder, wrong)
    assert "unknown key 'optimizer.lrr' (did you mean 'lr'?)" in said and "Traceback" not in said
    lab.wait(lost, "FAILED", folder=folder)
    said = lab.output(folder, lost)
    assert "launch: not requeued, it would end the same way again: rank 0: " in said
    assert "nowhere.jsonl" in said
    said = lab.output(folder, hopeless)
    assert said.count("launch: start ") == 2
    assert "launch: not requeued: 2 starts in a row made no progress beyond 0: 1. rank 0: " in said
    assert said.count("No space left on device") >= 2


def test_engines_on_a_node_of_their_own(lab: Lab, tmp_path: Path) -> None:
    """Two ranks on a node, an engine on another: it is killed, comes back, and ends with the trainer."""
    make_tiny_checkpoint(tmp_path / "student", architecture="qwen2", max_positions=1024)
    engine = {"max_model_len": 256, "max_num_seqs": 16, "cpu_kv_cache_gib": 1}
    recipe = grpo.grpo_recipe(
        tmp_path,
        batch={"num_episodes": 30},
        rollout={"sampler": "vllm", "engine": engine, "sync_timeout": 60.0},
        checkpoint={"every": 2},
    )
    write_recipe(tmp_path / "grpo.toml", recipe)
    words = ["grpo.toml", "--generator-nodes", "1", "--ranks-per-node", "2"]
    job = lab.submit(tmp_path, "slurm/grpo.sbatch", *words, flags=["--nodes=2"])
    again = training_again(lab, tmp_path, recipe.out, job, 0)
    lab.until(job, "training", again, seconds=400, folder=tmp_path)
    first = history(recipe.out).attempts[0]
    attempt = recipe.out / "launch" / f"{job}.0"
    assert (attempt / "secret").stat().st_mode & 0o777 == 0o600
    kill_on(lab, first.nodes[1], "kit.grpo.serve")
    lab.wait(job, "COMPLETED", seconds=400, folder=tmp_path)
    starts = history(recipe.out).attempts
    assert len(starts) == 2
    assert starts[0].ended.startswith(f"engine {first.nodes[1]}:")
    assert " died by SIGKILL: " in starts[0].ended
    assert len(losses(recipe.out)) == 30
    assert sum(name.startswith("[rank1]") for name in lab.output(tmp_path, job).splitlines()) == 0


def test_a_contest_goes_on_from_its_journal(lab: Lab, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", make_checkpoint(tmp_path / "model"))
    (tmp_path / "problems.csv").write_text("id,problem,answer\na,What is 1+1?,2\nb,What is 2+2?,4\n")
    recording = {"a": [boxed(2, 0.2)], "b": [boxed(4, 7.0)]}
    write_recording(tmp_path / "samples.jsonl", recording)
    words: list[str | Path] = [
        "--bundle",
        bundle,
        "--problems",
        "problems.csv",
        "--out",
        "played.csv",
        "--time-limit",
        "100",
    ]
    words += ["--set", "engine.kind=replay", "--set", "engine.recording=samples.jsonl"]
    job = lab.submit(tmp_path, "slurm/eval.sbatch", *words)
    journal = tmp_path / "played.journal.jsonl"
    lab.until(
        job,
        "the first answer",
        lambda: journal.exists() and '"answer":2' in journal.read_text().replace(" ", ""),
        folder=tmp_path,
    )
    lab.command("scancel", "--batch", "--signal=USR1", job)
    lab.wait(job, "COMPLETED", folder=tmp_path)
    said = lab.output(tmp_path, job)
    assert "SIGUSR1: the contest was stopped; its journal has the answers so far; requeued" in said
    with (tmp_path / "played.csv").open() as file:
        assert {row["id"]: row["answer"] for row in csv.DictReader(file)} == {"a": "2", "b": "4"}

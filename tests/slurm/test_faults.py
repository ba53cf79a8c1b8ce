"""One job that everything happens to, and that ends as if nothing had: on a real Slurm."""

import re
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.recipe import GrpoRecipe
from tests.kit.grpo.made import grpo_recipe, train
from tests.kit.training.test_resume import everything, same
from tests.kit.training.workers import Ended, launch
from tests.lab import Lab
from tests.slurm.made import history, kill_on, training_again, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 60
SECTIONS: dict[str, Any] = {
    "batch": {"num_episodes": STEPS},
    "checkpoint": {"every": 2},
    "rewards": {"answer": 0.0, "functions": {"tests.slurm.pacing:letters": 1.0}, "sandbox": {"workers": 2}},
}


class Run:
    """The job: two nodes with a rank each, its run folder on the lab's small disk."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.out = lab.small / "run"
        recipe = grpo_recipe(folder, **SECTIONS)
        write_recipe(folder / "grpo.toml", recipe.model_copy(update={"out": self.out}))
        (folder / "pace").write_text("0.15")  # two at a time, twelve a step
        flags = ["--nodes=2", "--partition=low"]
        self.job = lab.submit(folder, "slurm/grpo.sbatch", "grpo.toml", "--ranks-per-node", "1", flags=flags)
        self.restart = 0

    def trains(self) -> None:
        """Until this start has done steps."""
        again = training_again(self.lab, self.folder, self.out, self.job, self.restart)
        self.lab.until(self.job, f"start {self.restart} to train", again, folder=self.folder)

    def comes_back(self) -> str:
        """Until the job was started once more; how the start before ended."""
        self.restart += 1
        said = f"launch: start {self.restart} "
        self.lab.until(
            self.job, said, lambda: said in self.lab.output(self.folder, self.job), folder=self.folder
        )
        return history(self.out).attempts[-2].ended

    def minutes(self) -> int:
        """That this start has run, whole ones."""
        return int(time.time() - history(self.out).attempts[-1].began) // 60

    @property
    def nodes(self) -> tuple[str, ...]:
        """Of the start that runs."""
        return history(self.out).attempts[-1].nodes


def meanwhile(recipe: GrpoRecipe) -> "Future[Ended]":
    """Train on two ranks without Slurm, in the background."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(launch, train, 2, recipe.model_dump(mode="json"))
    finally:
        pool.shutdown(wait=False)


def test_whatever_happens_the_job_ends_as_if_undisturbed(lab: Lab, tmp_path: Path) -> None:
    run = Run(lab, tmp_path)
    undisturbed = grpo_recipe(tmp_path, **SECTIONS)

    # The time limit, announced by USR1 two minutes before.
    run.trains()
    lab.command("scontrol", "update", f"JobId={run.job}", f"TimeLimit={run.minutes() + 2}")
    alone = meanwhile(undisturbed)  # Slurm looks at time limits every 30 seconds
    assert re.fullmatch(r"SIGUSR1: rank \d saved and stopped", run.comes_back())
    lab.command("scontrol", "update", f"JobId={run.job}", "TimeLimit=UNLIMITED")

    run.trains()
    kill_on(lab, run.nodes[1], "kit.launch.rank")
    assert f"rank 1 on {run.nodes[1]} died by SIGKILL" in run.comes_back()

    run.trains()
    with lab.full_disk():
        assert "No space left on device" in run.comes_back()

    run.trains()
    kill_on(lab, run.nodes[0], "kit.launch.batch")
    assert run.comes_back() == "the batch script was killed"

    # A job of a higher partition wants all nodes: SIGTERM to all processes, 15 seconds before the end. The
    # step under way is saved.
    run.trains()
    urgent = lab.command(
        "sbatch", "--parsable", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=true", cwd=tmp_path
    )
    assert run.comes_back().endswith("saved and stopped")
    lab.wait(urgent, "COMPLETED")

    run.trains()
    lost = int(run.nodes[1].removeprefix("node"))
    lab.node("kill", lost)
    run.comes_back()
    assert f"node{lost}" not in run.nodes
    (tmp_path / "pace").write_text("0")
    lab.node("start", lost)

    lab.wait(run.job, "COMPLETED", folder=tmp_path)
    found = everything(run.out)
    starts = history(run.out).attempts
    # Nothing was lost but the work since the last checkpoint, and that was done again.
    progress = [start.progress for start in starts]
    assert progress == sorted(progress) and len(progress) == 7
    shutil.rmtree(run.out)

    assert alone.result().result["steps"] == STEPS
    assert same(found, everything(undisturbed.out)) == []

"""What a job leaves in its run's folder, and reads back."""

from pathlib import Path

import pytest

from kit.launch.attempts import (
    Attempt,
    History,
    Plan,
    ask_to_stop,
    asked_to_stop,
    attempt_folder,
    ends_of,
    newest_checkpoint,
    progress,
    tell_end,
)
from kit.launch.requeue import Start
from kit.launch.spec import JobSpec

HOSTS = ("node1", "node2", "node3", "node4")


def test_a_plan_divides_the_nodes(tmp_path: Path) -> None:
    args = ("grpo", "r.toml", "--generator-nodes", "1", "seed=1")
    Plan(args=args, hosts=HOSTS, job="7", port=12_000).write(tmp_path / "plan.json")
    plan = Plan.read(tmp_path / "plan.json")
    assert plan.spec == JobSpec("grpo", Path("r.toml"), ("seed=1",), nodes=4, generator_nodes=1)
    assert (plan.trainers, plan.generators) == (HOSTS[:3], HOSTS[3:])


def test_a_history_counts_the_starts_of_each_job(tmp_path: Path) -> None:
    assert History.load(tmp_path).starts("7") == []
    history = History()
    for job, found, ended in (("6", 0, "a"), ("7", 3, "b"), ("7", 5, "")):
        start = Attempt(job=job, restart=0, began=1.0, nodes=HOSTS, progress=found)
        history = history.with_start(start)
        if ended:
            history = history.with_end(ended)
        history.save(tmp_path)
    assert History.load(tmp_path).starts("7") == [Start(3, "b"), Start(5, "")]
    (tmp_path / "history.json").write_text('{"attempts": [')
    with pytest.raises(ValueError, match=r"history\.json cannot be read"):
        History.load(tmp_path)


def test_ends_come_in_their_order(tmp_path: Path) -> None:
    attempt = attempt_folder(tmp_path, "7", 1)
    assert attempt.name == "7.1"
    assert ends_of(attempt) == []
    tell_end(attempt, "rank-00002", "failed", "first")
    tell_end(attempt, "node-node1", "stopped", "second")
    assert [(end.who, end.kind, end.reason) for end in ends_of(attempt)] == [
        ("rank-00002", "failed", "first"),
        ("node-node1", "stopped", "second"),
    ]
    assert not asked_to_stop(attempt)
    ask_to_stop(attempt)
    ask_to_stop(attempt)
    assert asked_to_stop(attempt)


def test_progress_is_what_was_committed(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'out = "{tmp_path}/run"\n')
    spec = JobSpec("prm", recipe)
    assert progress(spec) == 0
    folder = tmp_path / "run" / "checkpoints"
    for name in ("step-00000010", "step-00000020", "step-00000030", ".step-00000040.tmp-ab-1"):
        (folder / name).mkdir(parents=True)
        if name != "step-00000030":
            (folder / name / "manifest.json").write_text("{}")
    assert newest_checkpoint(folder) == progress(spec) == 20


def test_progress_of_a_contest_is_its_journal(tmp_path: Path) -> None:
    words = ("--bundle", "b", "--problems", "p", "--out", str(tmp_path / "x.csv"))
    spec = JobSpec("eval", None, words)
    assert progress(spec) == 0
    (tmp_path / "x.journal.jsonl").write_text("{}\n{}\n")
    assert progress(spec) == 2

"""Jobs as arguments and back, and what is refused before a cluster sees it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.launch.spec import MAX_STALLS, JobSpec

RECIPE = "kit/recipes/grpo_cpu.toml"
COUNTS = st.integers(0, 64)


def test_options_and_overrides_in_any_order() -> None:
    spec = JobSpec.parse(
        ["grpo", RECIPE, "optimizer.lr=1e-6", "--generator-nodes", "2", "seed=3", "--ranks-per-node=8"],
        nodes=4,
    )
    assert spec == JobSpec(
        "grpo",
        Path(RECIPE),
        ("optimizer.lr=1e-6", "seed=3"),
        nodes=4,
        ranks_per_node=8,
        generator_nodes=2,
    )
    assert (spec.training_nodes, spec.script, spec.max_stalls) == (2, "slurm/grpo.sbatch", MAX_STALLS)
    assert spec.to_args() == [
        *("grpo", RECIPE, "--ranks-per-node", "8", "--generator-nodes", "2"),
        *("optimizer.lr=1e-6", "seed=3"),
    ]


@given(
    st.sampled_from(["distill", "grpo", "prm"]),
    st.lists(st.sampled_from(["optimizer.lr=1e-6", "out=a b", "data.columns={a='=x'}"])),
    COUNTS,
    COUNTS,
    st.integers(1, 9),
)
def test_what_is_written_is_read_back(
    phase: str, overrides: list[str], ranks: int, generators: int, stalls: int
) -> None:
    generators = generators if phase == "grpo" else 0
    spec = JobSpec(phase, Path("r.toml"), tuple(overrides), 65, ranks, generators, stalls)  # type: ignore[arg-type]
    assert JobSpec.parse(spec.to_args(), nodes=65) == spec


def test_where_a_job_writes() -> None:
    spec = JobSpec.parse(["grpo", RECIPE, "out=runs/mine"])
    assert (spec.out, spec.launch_folder) == (Path("runs/mine"), Path("runs/mine/launch"))
    played = JobSpec.parse(["eval", "--bundle", "b", "--problems=p.csv", "--set", "a.b=1"])
    assert played.overrides == ("--bundle", "b", "--problems=p.csv", "--set", "a.b=1")
    assert (played.out, played.launch_folder) == (Path("submission.parquet"), Path("submission.launch"))
    assert JobSpec.parse([*played.to_args(), "--out", "r/x.csv"]).launch_folder == Path("r/x.launch")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the first argument must be a phase, distill, grpo, prm, eval, not nothing"),
        (["train", RECIPE], "must be a phase, .* not 'train'"),
        (["grpo"], "grpo needs a recipe first"),
        (["grpo", "optimizer.lr=1e-6", RECIPE], "grpo needs a recipe first"),
        (["grpo", RECIPE, "--nodes=4"], "'--nodes=4' is neither .* sbatch's own options stand before"),
        (["grpo", RECIPE, "lr"], "'lr' is neither an override"),
        (["grpo", RECIPE, "--ranks-per-node"], "--ranks-per-node wants a number, not ''"),
        (["grpo", RECIPE, "--ranks-per-node=-1"], "--ranks-per-node wants a number, not '-1'"),
        (["grpo", RECIPE, "--max-stalls", "0"], "--max-stalls 0 must be 1 or more"),
        (["grpo", RECIPE, "--generator-nodes", "2"], "2 of 2 nodes leaves none to train.*--nodes=3"),
        (["prm", RECIPE, "--generator-nodes", "1"], "--generator-nodes is grpo's"),
        (["eval", "--bundle", "b", "--problems", "p"], "eval plays on one node.* not on 2"),
    ],
)
def test_wrong_jobs(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobSpec.parse(words, nodes=2)


@pytest.mark.parametrize("words", [["--bundle", "b"], ["--problems", "p"], ["--bundle", "b", "--problems"]])
def test_a_contest_needs_both(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"eval needs --(bundle|problems): it plays"):
        JobSpec.parse(["eval", *words])

"""Engines on nodes of their own: which GPUs, which command, and who does not answer."""

import socket
from pathlib import Path

import pytest

from kit.grpo.recipe import GrpoRecipe
from kit.grpo.samplers.wire import read_secret
from kit.launch.attempts import Engines
from kit.launch.generators import (
    addresses_of,
    command,
    devices,
    last_lines,
    make_secret,
    overrides,
    secret_file,
    unanswered,
)


@pytest.mark.parametrize(
    ("environment", "size", "groups"),
    [
        ({}, 4, [""]),
        ({"SLURM_GPUS_ON_NODE": "4"}, 2, ["0,1", "2,3"]),
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "5,7"}, 1, ["5", "7"]),
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 2, ["GPU-a,GPU-b"]),
    ],
)
def test_an_engine_for_so_many_gpus(environment: dict[str, str], size: int, groups: list[str]) -> None:
    assert devices(environment, size) == groups


def test_gpus_that_make_no_whole_engines() -> None:
    with pytest.raises(
        ValueError, match=r"6 GPUs on this node do not make engines of .*tensor_parallel_size=4"
    ):
        devices({"SLURM_GPUS_ON_NODE": "6"}, 4)
    with pytest.raises(ValueError, match="16 engines on one node, at most 15"):
        devices({"SLURM_GPUS_ON_NODE": "16"}, 1)


def test_the_command_is_the_recipes_engine() -> None:
    recipe = GrpoRecipe.load(
        None,
        ["model.path=models/seven", "rollout.engine.tensor_parallel_size=2", "rollout.engine.dtype=bfloat16"],
    )
    words = command(recipe, "node3:12001", Path("s/secret"))
    assert words[1:4] == ["-m", "kit.grpo.serve", "--once"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    engine = recipe.rollout.engine
    assert options == {
        "--model": "models/seven",
        "--host": "node3",
        "--port": "12001",
        "--secret-file": "s/secret",
        "--dtype": "bfloat16",
        "--max-model-len": str(engine.max_model_len),
        "--max-num-seqs": str(engine.max_num_seqs),
        "--gpu-memory-utilization": str(engine.gpu_memory_utilization),
        "--tensor-parallel-size": "2",
        "--cpu-kv-cache-gib": str(engine.cpu_kv_cache_gib),
    }


def test_the_ranks_are_told_of_them(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b"'
    folder.mkdir()
    make_secret(folder)
    words = overrides(folder, ["node3:12001", "node4:12001"])
    rollout = GrpoRecipe.load(None, words).rollout
    assert (rollout.sampler, rollout.servers) == ("served", ("node3:12001", "node4:12001"))
    assert len(read_secret(rollout.secret_file)) == 64
    assert secret_file(folder).stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        make_secret(folder)


def test_who_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as listening:
        closed.bind(("127.0.0.1", 0))
        dead, alive = (f"127.0.0.1:{plug.getsockname()[1]}" for plug in (closed, listening))
        Engines(addresses=(alive, dead)).write(tmp_path / "engines" / "node3.json")
        missing = unanswered(tmp_path, ["node3", "node4"])
        assert list(missing) == [f"engine {dead}", "node node4"]
        assert "Connection refused" in missing[f"engine {dead}"]
        assert missing["node node4"] == "it has not started its engines"
        Engines(addresses=(alive,)).write(tmp_path / "engines" / "node4.json")
        assert unanswered(tmp_path, ["node4"]) == {}
    assert addresses_of(tmp_path, ["node4", "node3"]) == [alive, alive, dead]


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "engine-0.log"
    log.write_bytes(b"one\n\n two \nthree\xff\nfour\n")
    assert last_lines(log) == f"two | three\ufffd | four ({log})"
    log.write_text("")
    assert last_lines(log) == f"it said nothing ({log})"

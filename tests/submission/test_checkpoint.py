"""What a checkpoint may not be, and what of a good one goes into a bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from submission.architectures import generating_architectures
from submission.checkpoint import check_weights, inspect, read_json, tensor_names
from tests.kit.package.made import make_checkpoint, write_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model", shards=2)


def test_a_good_checkpoint_is_described(model: Path) -> None:
    found = inspect(model)
    assert (found.name, found.architecture, found.model_type) == ("model", "LlamaForCausalLM", "llama")
    assert found.license == "apache-2.0"
    assert found.license_files == ("LICENSE",)
    assert found.files == (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    assert found.size == sum((model / name).stat().st_size for name in found.files)


def test_shards_and_their_index_are_taken(sharded: Path) -> None:
    found = inspect(sharded)
    assert [name for name in found.files if name.startswith("model")] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_what_is_not_needed_is_left_out_with_its_reason(model: Path) -> None:
    for name in (
        "modeling_x.py",
        "optimizer.pt",
        "training_args.bin",
        "consolidated.safetensors",
        "notes.txt",
    ):
        (model / name).write_bytes(b"x")
    (model / "checkpoint-1").mkdir()
    left = {note.path: note.reason for note in inspect(model).left_out}
    assert left["model/modeling_x.py"] == "code is never taken from a checkpoint"
    assert "pickle" in left["model/optimizer.pt"]
    assert "pickle" in left["model/training_args.bin"]
    assert "index" in left["model/consolidated.safetensors"]
    assert {"model/notes.txt", "model/checkpoint-1", "model/README.md"} < set(left)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A checkpoint as a hub's cache keeps it: every file is a link to a blob."""
    repository = tmp_path / "models--org--name"
    folder = make_checkpoint(repository / "snapshots" / "0123abc", shards=2)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(repository / "blobs" / str(number))
        path.symlink_to(Path("../../blobs", str(number)))
    return folder


def test_a_hubs_cache_of_links_is_followed(snapshot: Path, tmp_path: Path) -> None:
    found = inspect(snapshot)
    assert {"config.json", "model-00001-of-00002.safetensors"} < set(found.files)
    assert (found.license, found.license_files) == ("apache-2.0", ("LICENSE",))
    (tmp_path / "link").symlink_to(snapshot)
    assert inspect(tmp_path / "link").files == found.files
    (snapshot / "config.json").resolve().unlink()
    with pytest.raises(ValueError, match=r"config\.json is a link to a file that does not exist"):
        inspect(snapshot)


def test_a_link_within_the_checkpoint_is_followed(model: Path) -> None:
    (model / "NOTICE").symlink_to("LICENSE")
    assert inspect(model).license_files == ("LICENSE", "NOTICE")


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "chat_template.jinja", "config.json", "model.safetensors", "vocab.json"]
)
@pytest.mark.parametrize("hub", [False, True])
def test_a_link_out_of_the_checkpoint_is_refused(tmp_path: Path, name: str, hub: bool) -> None:
    model = make_checkpoint(tmp_path / ("models--a--b/snapshots/1" if hub else "model"))
    secret = tmp_path / "blobs" / "secret"  # a folder called blobs is not the hub's wherever it lies
    secret.parent.mkdir()
    secret.write_bytes((model / name).read_bytes() if (model / name).exists() else b"{}")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(ValueError, match="outside the checkpoint's folder") as caught:
        inspect(model)
    for part in (model / name, secret, "put a copy"):
        assert str(part) in str(caught.value)


def test_a_linked_shard_and_a_ring_of_links_are_refused(sharded: Path, tmp_path: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"00002-of-00002.* outside the checkpoint's folder"):
        inspect(sharded)
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(ValueError, match="is a link to a file that does not exist"):
        inspect(sharded)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"]
)
def test_a_fifo_is_refused_and_not_read(model: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(ValueError, match=rf"{name} is a fifo, socket or device"):
        inspect(model)
    with pytest.raises(ValueError, match="is a fifo"):
        read_json(model / name)


@pytest.mark.slow
def test_the_list_of_architectures_runs_no_code_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers.py", "json.py"):
        (tmp_path / name).write_text("from pathlib import Path\nPath('was-run').touch()\n")
    monkeypatch.chdir(tmp_path)
    # As in a process that has not loaded transformers yet; other tests may have.
    monkeypatch.delitem(sys.modules, "transformers.models.auto.modeling_auto", raising=False)
    assert "LlamaForCausalLM" in generating_architectures.__wrapped__()["llama"]
    assert not (tmp_path / "was-run").exists()


@pytest.mark.slow
def test_a_process_that_has_loaded_transformers_reads_the_same_architectures_there() -> None:
    code = (
        "import subprocess, sys\n"
        "from submission.architectures import generating_architectures\n"
        "apart = generating_architectures.__wrapped__()\n"
        "assert 'transformers' not in sys.modules\n"
        "import transformers.models.auto.modeling_auto\n"
        "subprocess.run = None\n"
        "assert generating_architectures.__wrapped__() == apart and len(apart) > 100\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", r"no config\.json"),
        ("model.safetensors", r"no weights: model\.safetensors"),
        ("tokenizer.json", r"no tokenizer: tokenizer\.json"),
        ("tokenizer_config.json", r"no chat template.*chat_template\.jinja"),
    ],
)
def test_a_missing_file_is_named(model: Path, remove: str, message: str) -> None:
    (model / remove).unlink()
    with pytest.raises(ValueError, match=message):
        inspect(model)


def test_a_template_file_serves_too(model: Path) -> None:
    write_json(model / "tokenizer_config.json", {})
    with pytest.raises(ValueError, match="no chat template"):
        inspect(model)
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert "chat_template.jinja" in inspect(model).files


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.ckpt"])
def test_a_pickled_checkpoint_is_refused_with_the_way_to_convert_it(model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    with pytest.raises(ValueError, match=r"pickle.*safe_serialization=True") as caught:
        inspect(model)
    assert name in str(caught.value)


def test_a_folder_that_is_none_and_an_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        inspect(tmp_path / "absent")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="GGUF"):
        inspect(tmp_path / "model.gguf")
    write_json(tmp_path / "adapter_config.json", {})
    with pytest.raises(ValueError, match="merge"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "nosuchmodel"}, "no model_type 'nosuchmodel'"),
        ({"model_type": None}, "names no model_type"),
        ({"architectures": ["NoSuchForCausalLM"]}, "'NoSuchForCausalLM'.*LlamaForCausalLM"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "'Qwen2ForCausalLM'.*'llama'"),
        ({"architectures": ["LlamaForTokenClassification"]}, "not a generating model"),
        ({"architectures": []}, "list of one name"),
        ({"architectures": "LlamaForCausalLM"}, "list of one name"),
        ({"auto_map": {"AutoModel": "modeling_x.X"}}, r"config\.json asks for custom code"),
    ],
)
def test_an_unknown_or_custom_architecture_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        inspect(make_checkpoint(tmp_path / "model", config=config))


def test_a_tokenizer_with_code_is_refused(model: Path) -> None:
    write_json(model / "tokenizer_config.json", {"chat_template": "x", "auto_map": {"AutoTokenizer": "x.X"}})
    with pytest.raises(ValueError, match=r"tokenizer_config\.json asks for custom code"):
        inspect(model)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfa", b"[" * 200_000])
def test_malformed_json_is_named(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not valid JSON"):
        inspect(model)


@given(st.data())
@settings(deadline=None)
def test_weights_cut_anywhere_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    save_file({"a": np.zeros((3, 4), dtype=np.float32)}, path)
    size = path.stat().st_size
    os.truncate(path, data.draw(st.integers(0, size - 1)))
    with pytest.raises(ValueError, match=r"model\.safetensors \(\d+ bytes\) is not a whole safetensors file"):
        tensor_names(path)


def test_weights_with_more_bytes_than_the_header_says_are_refused(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        inspect(model)


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_header_length_that_lies_is_refused(model: Path, length: int) -> None:
    with (model / "model.safetensors").open("r+b") as file:
        file.write(length.to_bytes(8, "little"))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        inspect(model)


def test_weights_without_tensors_are_refused(model: Path) -> None:
    save_file({}, model / "model.safetensors")
    with pytest.raises(ValueError, match="holds no tensors"):
        inspect(model)


def test_a_missing_or_short_shard_is_named(sharded: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"model-00002-of-00002.*cut short"):
        inspect(sharded)
    shard.unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors, which is missing"):
        inspect(sharded)


def test_shards_without_their_index_are_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        inspect(sharded)


def _edit_map(folder: Path, **changes: str | None) -> None:
    path = folder / "model.safetensors.index.json"
    weight_map = {**json.loads(path.read_text())["weight_map"], **changes}
    write_json(path, {"weight_map": {name: shard for name, shard in weight_map.items() if shard}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra.weight": "model-00001-of-00002.safetensors"}, r"lacks 1 tensors \(extra\.weight\)"),
        ({"lm_head.weight": None}, r"unknown to the index.*lm_head\.weight"),
        ({"lm_head.weight": "../outside.safetensors"}, r"\.\./outside\.safetensors.*no plain name"),
        ({"lm_head.weight": "/etc/model.safetensors"}, "no plain name"),
        ({"lm_head.weight": "pytorch_model.bin"}, "no plain name"),
    ],
)
def test_an_index_that_does_not_match_is_refused(
    sharded: Path, changes: dict[str, str | None], message: str
) -> None:
    _edit_map(sharded, **changes)
    with pytest.raises(ValueError, match=message):
        check_weights(sharded)


@pytest.mark.parametrize("content", [[], {}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_a_map_is_refused(sharded: Path, content: object) -> None:
    write_json(sharded / "model.safetensors.index.json", content)
    with pytest.raises(ValueError, match="has no weight_map"):
        check_weights(sharded)


def test_two_sets_of_weights_are_ambiguous(sharded: Path) -> None:
    save_file({"a": np.zeros(1, dtype=np.float32)}, sharded / "model.safetensors")
    with pytest.raises(ValueError, match="ambiguous"):
        inspect(sharded)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\ntags: [a]\nlicense: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("# A model\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_is_the_cards(model: Path, card: str, expected: str | None) -> None:
    (model / "README.md").write_text(card)
    assert inspect(model).license == expected


def test_a_path_of_the_building_machine_is_no_name(tmp_path: Path) -> None:
    given_path = make_checkpoint(tmp_path / "a", config={"_name_or_path": "/home/me/secret/model"})
    given_name = make_checkpoint(tmp_path / "b", config={"_name_or_path": "Qwen/Qwen3-8B"})
    assert inspect(given_path).name == "a"
    assert inspect(given_name).name == "Qwen/Qwen3-8B"

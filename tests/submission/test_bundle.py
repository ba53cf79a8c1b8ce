"""The bundle's manifest and its check, on small bundles and on hostile ones."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from submission import bundle
from submission.bundle import (
    Bundle,
    Entry,
    Problem,
    load_manifest,
    model_dir,
    parse_manifest,
    quick_check,
    verify,
)

FILES = {
    "contest.toml": b"[rules]\n",
    "model/config.json": b"{}",
    "model/model.safetensors": bytes(range(256)) * 20,
    "submission/__init__.py": b"",
    "submission/deep/er/one.py": b"ONE = 1\n",
}


def manifest_of(files: dict[str, bytes], **other: Any) -> dict[str, Any]:
    entries = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in sorted(files.items())
    ]
    return {"format": "aimo-bundle", "version": 1, "files": entries, **other}


def write_bundle(root: Path, files: dict[str, bytes] = FILES) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "manifest.json").write_text(json.dumps(manifest_of(files)))
    return root


@contextmanager
def small_bundle() -> Iterator[Path]:
    """A fresh bundle for one hypothesis example, for which tmp_path would be shared."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_bundle(Path(folder) / "b")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b")


def found(root: Path) -> set[tuple[str, str]]:
    return {(problem.path, problem.kind) for problem in verify(root)}


def test_an_untouched_bundle_has_no_problems(made: Path) -> None:
    assert verify(made) == []
    assert quick_check(made) == []


def test_the_manifest_is_read(made: Path) -> None:
    opened = Bundle.open(made)
    raw = (made / "manifest.json").read_bytes()
    assert opened.manifest.digest == hashlib.sha256(raw).hexdigest()
    assert Entry("contest.toml", 8, hashlib.sha256(b"[rules]\n").hexdigest()) in opened.manifest.entries
    assert opened.model == made / "model"
    assert opened.settings == made / "contest.toml"
    assert "files" not in opened.manifest.data


def test_progress_counts_every_byte(made: Path) -> None:
    counts: list[int] = []
    verify(made, counts.append)
    assert sum(counts) == sum(map(len, FILES.values()))


def test_a_changed_byte_is_found_and_sizes_alone_do_not_tell(made: Path) -> None:
    path = made / "model/model.safetensors"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    assert found(made) == {("model/model.safetensors", "changed")}
    assert quick_check(made) == []


def test_missing_added_and_shortened_files_are_found_by_both_checks(made: Path) -> None:
    (made / "contest.toml").unlink()
    (made / "submission/__pycache__").mkdir()
    (made / "submission/__pycache__/x.pyc").write_bytes(b"x")
    os.truncate(made / "model/model.safetensors", 10)
    expected = {
        ("contest.toml", "missing"),
        ("submission/__pycache__", "added"),
        ("submission/__pycache__/x.pyc", "added"),
        ("model/model.safetensors", "changed"),
    }
    assert found(made) == expected
    assert {(problem.path, problem.kind) for problem in quick_check(made)} == expected


def test_an_empty_folder_is_added_too(made: Path) -> None:
    (made / "nothing").mkdir()
    assert found(made) == {("nothing", "added")}


def test_a_link_is_found_even_to_the_same_content(made: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(FILES["contest.toml"])
    (made / "contest.toml").unlink()
    (made / "contest.toml").symlink_to(outside)
    assert found(made) == {("contest.toml", "linked")}


def test_a_linked_folder_is_not_entered(made: Path, tmp_path: Path) -> None:
    shutil.move(made / "model", tmp_path / "elsewhere")
    (made / "model").symlink_to(tmp_path / "elsewhere")
    assert ("model", "linked") in found(made)
    assert ("model/config.json", "missing") in found(made)
    with pytest.raises(ValueError, match=r"model/config\.json"):
        model_dir(made)


def test_a_fifo_is_found_and_never_opened(made: Path) -> None:
    (made / "contest.toml").unlink()
    os.mkfifo(made / "contest.toml")
    os.mkfifo(made / "extra")
    assert found(made) == {("contest.toml", "linked"), ("extra", "linked")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device file")
def test_a_device_is_found(made: Path) -> None:
    try:
        os.mknod(made / "null", 0o020666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this container forbids device files")
    assert found(made) == {("null", "linked")}


def test_a_name_that_is_not_unicode_is_found(made: Path) -> None:
    (made / os.fsdecode(b"bad\xff")).write_bytes(b"")
    assert found(made) == {("bad\udcff", "added")}


def test_a_link_swapped_in_after_the_listing_is_not_followed(made: Path, tmp_path: Path) -> None:
    """The race that a listing followed by an open would lose."""
    manifest = Bundle.open(made).manifest
    shutil.move(made / "model", tmp_path / "elsewhere")
    (made / "model").symlink_to(tmp_path / "elsewhere")
    root = os.open(made, os.O_RDONLY)
    try:
        entry = next(item for item in manifest.entries if item.path == "model/config.json")
        problem = bundle._check_digest(root, entry, None)
    finally:
        os.close(root)
    assert isinstance(problem, Problem)
    assert problem.kind == "changed"


def test_a_deep_tree_needs_no_deep_stack(made: Path) -> None:
    folder = made
    for _ in range(300):
        folder = folder / "d"
        folder.mkdir()
    assert len(verify(made)) == 300


def test_the_upload_may_leave_out_its_own_metadata(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "b", {**FILES, "dataset-metadata.json": b"{}"})
    (root / "dataset-metadata.json").unlink()
    assert quick_check(root) == []
    assert found(root) == {("dataset-metadata.json", "missing")}


BAD_PATHS = [
    "/etc/passwd",
    "../outside",
    "a/../../outside",
    "a/..",
    "..",
    ".",
    "./a",
    "a//b",
    "a/",
    "a/./b",
    "a\\b",
    "a\x00b",
    "a\nb",
    "",
    "manifest.json",
    "x" * 2000,
    "x" * 256,
    "a/" * 40 + "b",
    "\ud800",
    None,
    7,
    ["a"],
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: ascii(path)[:30])
def test_a_hostile_path_is_refused_by_name(path: object, tmp_path: Path) -> None:
    content = manifest_of({})
    content["files"] = [{"path": path, "size": 0, "sha256": "0" * 64}]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="build the bundle again") as caught:
        load_manifest(tmp_path / "manifest.json")
    assert ascii(path)[:50] in str(caught.value)
    assert str(tmp_path) in str(caught.value)


ENTRY = {"path": "a", "size": 1, "sha256": "0" * 64}
BAD_MANIFESTS = {
    "no JSON": "{",
    "a list": "[]",
    "another format": json.dumps({"format": "zip", "version": 1, "files": []}),
    "a later version": json.dumps({"format": "aimo-bundle", "version": 2, "files": []}),
    "version true": json.dumps({"format": "aimo-bundle", "version": True, "files": []}),
    "no files": json.dumps({"format": "aimo-bundle", "version": 1}),
    "files no list": json.dumps({"format": "aimo-bundle", "version": 1, "files": {"a": 1}}),
    "a key twice": '{"format": "aimo-bundle", "version": 1, "files": [], "files": []}',
    "not a number": '{"format": "aimo-bundle", "version": 1, "files": [], "x": NaN}',
    "nested too deep": '{"x":' + "[" * 100_000 + "]" * 100_000 + "}",
    "a path twice": json.dumps(manifest_of({}) | {"files": [ENTRY, ENTRY]}),
    "a file that is a folder": json.dumps(manifest_of({}) | {"files": [ENTRY, ENTRY | {"path": "a/b"}]}),
    "below the manifest": json.dumps(manifest_of({}) | {"files": [ENTRY | {"path": "manifest.json/b"}]}),
    "an entry's extra key": json.dumps(manifest_of({}) | {"files": [ENTRY | {"mode": 0}]}),
    "an entry that is text": json.dumps(manifest_of({}) | {"files": ["a"]}),
    "a negative size": json.dumps(manifest_of({}) | {"files": [ENTRY | {"size": -1}]}),
    "a huge size": json.dumps(manifest_of({}) | {"files": [ENTRY | {"size": 1 << 63}]}),
    "a size of true": json.dumps(manifest_of({}) | {"files": [ENTRY | {"size": True}]}),
    "a size of 1.0": json.dumps(manifest_of({}) | {"files": [ENTRY | {"size": 1.0}]}),
    "a size with 5000 digits": json.dumps(manifest_of({})).replace("[]", '[{"size": ' + "9" * 5000 + "}]"),
    "a short digest": json.dumps(manifest_of({}) | {"files": [ENTRY | {"sha256": "00"}]}),
    "a digest in capitals": json.dumps(manifest_of({}) | {"files": [ENTRY | {"sha256": "A" * 64}]}),
    "a digest with a newline": json.dumps(manifest_of({}) | {"files": [ENTRY | {"sha256": "0" * 64 + "\n"}]}),
    "too many files": json.dumps(manifest_of({}) | {"files": [0] * 200_001}),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"HERE is not a bundle's manifest: .+ again"):
        parse_manifest(BAD_MANIFESTS[name].encode(), "HERE")


def test_a_huge_manifest_is_refused_without_parsing(made: Path) -> None:
    os.truncate(made / "manifest.json", bundle.MAX_MANIFEST_BYTES + 1)
    with pytest.raises(ValueError, match="larger than 64 MiB"):
        load_manifest(made / "manifest.json")


def test_a_manifest_that_is_missing_a_link_or_a_fifo_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with pytest.raises(ValueError, match="No such file"):
        load_manifest(path)
    (tmp_path / "real.json").write_text(json.dumps(manifest_of({})))
    path.symlink_to(tmp_path / "real.json")
    with pytest.raises(ValueError, match="cannot be read"):
        load_manifest(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file"):
        load_manifest(path)


@given(st.binary(max_size=300))
def test_random_bytes_are_never_more_than_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="manifest"):
        parse_manifest(raw, "HERE")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "path": json_values | st.text("ab/.\\", max_size=6),
                "size": json_values,
                "sha256": json_values | st.just("0" * 64),
            }
        ),
        max_size=4,
    )
)
def test_whatever_is_accepted_stays_in_the_bundle(files: list[dict[str, Any]]) -> None:
    raw = json.dumps({"format": "aimo-bundle", "version": 1, "files": files}).encode()
    try:
        manifest = parse_manifest(raw, "HERE")
    except ValueError as error:
        assert "HERE" in str(error)
        return
    root = Path("/r")
    for entry in manifest.entries:
        resolved = Path(os.path.normpath(root / entry.path))
        assert resolved.is_relative_to(root)
        assert resolved != root
        assert resolved == root / entry.path


@given(st.sampled_from(sorted(set(FILES) - {"submission/__init__.py"})), st.data())
@settings(deadline=None)
def test_any_flipped_bit_is_found(name: str, data: st.DataObject) -> None:
    with small_bundle() as root:
        content = bytearray((root / name).read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))
        (root / name).write_bytes(content)
        assert found(root) == {(name, "changed")}


@given(st.sampled_from(sorted(set(FILES) - {"submission/__init__.py"})), st.data())
@settings(deadline=None)
def test_any_truncation_is_found(name: str, data: st.DataObject) -> None:
    with small_bundle() as root:
        os.truncate(root / name, data.draw(st.integers(0, len(FILES[name]) - 1)))
        assert found(root) == {(name, "changed")}


@given(
    st.sampled_from(sorted(FILES)),
    st.text("abc.", min_size=1, max_size=8).filter(lambda name: name.strip(".")),
)
@settings(deadline=None)
def test_any_rename_is_found(name: str, new: str) -> None:
    with small_bundle() as root:
        target = (root / name).with_name(new)
        (root / name).rename(target)
        assert found(root) == {(name, "missing"), (target.relative_to(root).as_posix(), "added")}


@given(st.permutations(sorted(set(FILES))))
@settings(deadline=None)
def test_swapped_files_are_found(order: list[str]) -> None:
    with small_bundle() as root:
        for name, other in zip(sorted(FILES), order, strict=True):
            (root / name).write_bytes(FILES[other])
        moved = {(name, "changed") for name, other in zip(sorted(FILES), order, strict=True) if name != other}
        assert found(root) == moved


@given(st.integers(0, 2000))
@settings(deadline=None)
def test_any_damage_to_the_manifest_is_an_error_or_a_problem(cut: int) -> None:
    with small_bundle() as root:
        path = root / "manifest.json"
        raw = path.read_bytes()
        position = cut % (len(raw) - 1)
        path.write_bytes(raw[:position])
        with pytest.raises(ValueError, match=r"manifest\.json"):
            verify(root)


def test_the_install_never_asks_an_index(tmp_path: Path) -> None:
    make, install, _ = bundle.install_commands(tmp_path / "b", tmp_path / "env", "python3")
    assert make[:4] == ["python3", "-P", "-m", "venv"]
    assert "--system-site-packages" not in make
    assert {"--no-index", "--require-hashes", "--no-deps", "--isolated"} <= set(install)
    assert install[-1] == str(tmp_path / "b" / "requirements.txt")

"""Splitting for an upload's limit: shards that engines read as they are, wheels that come together again."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from kit.package.build import build
from kit.package.contents import Plan, plan
from kit.package.copying import Item
from kit.package.joined import Parts
from kit.package.offline import install_offline
from kit.package.splitting import parse_size, split
from kit.package.targets import Target
from submission import joining
from submission.bundle import Bundle, has_split_wheels, install_commands, parse_manifest, verify
from submission.checkpoint import INDEX, check_weights, inspect
from submission.joining import join, joined_files
from submission.settings import ContestSettings
from tests.kit.package.made import make_checkpoint, make_wheel, make_wheelhouse, tree


def planned(model: Path, *wheels: Path) -> Plan:
    house = make_wheelhouse(wheels[0].parent, *wheels) if wheels else None
    return plan(inspect(model), ContestSettings(), Target.local(), house)


def held(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor of a checkpoint, as the library reads it: its type and bytes."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                found[name] = (str(file.get_tensor(name).dtype), file.get_tensor(name).tobytes())
    return found


@pytest.mark.parametrize("shards", [1, 2])
def test_weights_become_smaller_shards_with_the_same_tensors(tmp_path: Path, shards: int) -> None:
    model = make_checkpoint(tmp_path / "model", shards=shards, rows=4000)
    limit = 200_000  # one tensor has 128,000 bytes
    whole = planned(model)
    out = build(split(whole, limit), tmp_path / "b").folder
    assert verify(out) == []
    names = sorted(path.name for path in (out / "model").glob("*.safetensors"))
    assert names == [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    assert all(path.stat().st_size <= limit for path in (out / "model").glob("*.safetensors"))
    assert held(out / "model") == held(model)
    # The check of every build and every start finds index and shards in agreement.
    assert set(check_weights(out / "model")) == {INDEX, *names}
    assert inspect(out / "model").architecture == "LlamaForCausalLM"
    assert json.loads((out / "model" / INDEX).read_text())["metadata"]["total_size"] == 3 * 128_000
    assert "joined" not in Bundle.open(out).manifest.data


def test_what_is_small_enough_stays_as_it_is(tmp_path: Path) -> None:
    whole = planned(make_checkpoint(tmp_path / "model", shards=2))
    assert split(whole, 10**6) == whole


def test_metadata_stays_and_two_splits_are_the_same(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", rows=400)
    tensors = {f"t{number}": np.full(4000, number, dtype=np.float32) for number in range(5)}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt", "b": "2"})
    first = build(split(planned(model), 40_000), tmp_path / "a").folder
    second = build(split(planned(model), 40_000), tmp_path / "b").folder
    assert tree(first) == tree(second)
    with safe_open(next((first / "model").glob("*00001*")), framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "b": "2"}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["float32", "float16", "uint8", "int64"]), st.integers(0, 300)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1000, 5000),
)
def test_any_tensors_survive_and_stay_aligned(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, int]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("split")
    random = np.random.default_rng(0)
    tensors = {f"t{i}": random.integers(0, 100, size).astype(kind) for i, (kind, size) in enumerate(made)}
    save_file(tensors, folder / "model.safetensors")
    size = (folder / "model.safetensors").stat().st_size
    item = Item("model/model.safetensors", folder / "model.safetensors", size)
    try:
        items = split(Plan((item,), {}), limit).items
    except ValueError as error:
        assert "alone has" in str(error)
        assert max(tensor.nbytes for tensor in tensors.values()) > limit - 200
        return
    assert all(item.size <= limit for item in items if item.path.endswith(".safetensors"))
    (folder / "out").mkdir()
    from kit.package.copying import write_all

    write_all(items, folder / "out", lambda _: None)
    assert held(folder / "out" / "model") == held(folder)
    for path in (folder / "out" / "model").glob("*.safetensors"):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = {k: v for k, v in json.loads(raw[8 : 8 + length]).items() if k != "__metadata__"}
        assert length % 8 == 0
        assert all(
            entry["data_offsets"][0] % {"F32": 4, "F16": 2, "U8": 1, "I64": 8}[entry["dtype"]] == 0
            for entry in header.values()
        )


def big_wheel(folder: Path, name: str = "smallthing", requires: Sequence[str] = ()) -> Path:
    """A real wheel of a few kB that hardly compresses."""
    noise = np.random.default_rng(0).bytes(9000).hex()
    return make_wheel(folder, name, source=f"VALUE = 42\nNOISE = '{noise}'\n", requires=requires)


@given(
    st.lists(st.binary(max_size=9), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))),
)
def test_parts_read_as_the_whole(parts: list[bytes], reads: list[tuple[int, int]]) -> None:
    whole, joined = (
        io.BytesIO(b"".join(parts)),
        io.BufferedReader(Parts([io.BytesIO(part) for part in parts])),
    )
    assert joined.read() == whole.read()
    for start, count in reads:
        assert joined.seek(start) == whole.seek(start)
        assert joined.read(count) == whole.read(count)
        assert joined.tell() == whole.tell()
    assert joined.seek(0, io.SEEK_END) == whole.seek(0, io.SEEK_END)


def split_bundle(tmp_path: Path, limit: int = 4000) -> Path:
    """A bundle whose code and weights are whole and whose one wheel lies in parts."""
    wheel = big_wheel(tmp_path / "wheels")
    whole = planned(make_checkpoint(tmp_path / "model"), wheel)
    rest = tuple(item for item in whole.items if not item.path.startswith("wheels/"))
    only = split(replace(whole, items=tuple(i for i in whole.items if i not in rest)), limit)
    return build(replace(only, items=(*rest, *only.items)), tmp_path / "b").folder


@pytest.mark.slow
def test_a_split_wheel_is_joined_installed_and_removed(tmp_path: Path) -> None:
    bundle = split_bundle(tmp_path)
    assert verify(bundle) == []
    assert has_split_wheels(bundle)
    names = sorted(path.name for path in (bundle / "wheels").iterdir())
    assert names[0] == "smallthing-1.0-py3-none-any.whl.part-000"
    assert len(names) == 5  # 18 kB in parts of 4 kB
    before = tree(bundle)
    python = install_offline(bundle, tmp_path / "env", sys.executable)
    code = "import smallthing; print(smallthing.VALUE)"
    assert subprocess.run([python, "-c", code], check=True, capture_output=True).stdout == b"42\n"
    assert not (tmp_path / "env-joined-wheels").exists()
    assert tree(bundle) == before


def test_the_joined_wheel_is_the_source(tmp_path: Path) -> None:
    bundle = split_bundle(tmp_path)
    (path,) = join(bundle, tmp_path / "joined")
    assert path.read_bytes() == (tmp_path / "wheels" / path.name).read_bytes()


def test_commands_for_a_place_where_the_bundle_does_not_lie_yet(tmp_path: Path) -> None:
    for split_wheels, count in ((True, 5), (False, 3)):
        commands = install_commands(tmp_path / "x", tmp_path / "e", sys.executable, split=split_wheels)
        assert len(commands) == count


@pytest.mark.parametrize("damage", ["flip", "missing", "short"])
def test_a_damaged_part_is_named_and_nothing_is_installed(tmp_path: Path, damage: str) -> None:
    bundle = split_bundle(tmp_path)
    part = next((bundle / "wheels").glob("*.part-001"))
    raw = part.read_bytes()
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(raw[:-1] if damage == "short" else raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"smallthing.*(part-00|cannot be joined)"):
        join(bundle, tmp_path / "joined")
    assert list((tmp_path / "joined").glob("*")) in ([], [tmp_path / "joined" / part.name[:-9]])
    with pytest.raises(ValueError, match="smallthing"):
        install_offline(bundle, tmp_path / "env", sys.executable)
    # Found by the check of every build as well.
    assert [(found.path, found.kind) for found in verify(bundle)] == [
        (f"wheels/{part.name}", "missing" if damage == "missing" else "changed")
    ]


def test_what_can_be_cut_in_neither_way_is_refused_by_name(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", rows=400)
    (model / "LICENSE").write_text("x" * 50_000)
    with pytest.raises(ValueError, match=r"licenses/model/LICENSE has 50000 bytes.*nor a wheel"):
        split(planned(model), 45_000)
    with pytest.raises(ValueError, match=r"the tensor \S+ alone has 12800 bytes, over --split-size 12800"):
        split(planned(make_checkpoint(tmp_path / "other", rows=400)), 12_800)


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2_000_000_000), ("1.9G", 1_900_000_000), ("500m", 500_000_000), ("1MB", 10**6)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "2T", "-1G", "G", "999K", "1e9G"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--split-size"):
        parse_size(text)


PART = {"path": "wheels/a-1-py3-none-any.whl.part-000", "size": 3, "sha256": "0" * 64}
GOOD = {"path": "wheels/a-1-py3-none-any.whl", "size": 3, "sha256": "0" * 64, "parts": 1}


@pytest.mark.parametrize(
    "joined",
    [
        {"a": 1},
        [1],
        [{**GOOD, "extra": 1}],
        [{**GOOD, "path": "wheels/../../outside.whl"}],
        [{**GOOD, "path": "/etc/a.whl"}],
        [{**GOOD, "path": "wheels/-a.whl"}],
        [{**GOOD, "path": "wheels/a/b.whl"}],
        [{**GOOD, "path": "model/a.whl"}],
        [{**GOOD, "path": "wheels/b-1-py3-none-any.whl"}],
        [{**GOOD, "path": "wheels/a\n.whl"}],
        [{**GOOD, "path": 3}],
        [{**GOOD, "size": 4}],
        [{**GOOD, "size": True}],
        [{**GOOD, "parts": 0}],
        [{**GOOD, "parts": 2}],
        [{**GOOD, "parts": 10**9}],
        [{**GOOD, "parts": True}],
        [{**GOOD, "sha256": "0"}],
        [GOOD, GOOD],
    ],
)
def test_a_hostile_list_of_joined_files_is_refused(joined: object) -> None:
    raw = {"format": "aimo-bundle", "version": 1, "files": [PART], "joined": [GOOD]}
    assert joined_files(parse_manifest(json.dumps(raw).encode(), "HERE"))[0].parts[0].path == PART["path"]
    with pytest.raises(ValueError, match=r"is not valid: .*build the bundle again"):
        joined_files(parse_manifest(json.dumps({**raw, "joined": joined}).encode(), "HERE"))


def test_a_folder_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    command = [sys.executable, joining.__file__, "--remove", str(tmp_path / "link")]
    path = {"PYTHONPATH": str(Path(joining.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=path, check=False)
    assert done.returncode == 1
    assert "symbolic link" in done.stderr
    assert (tmp_path / "mine" / "file").exists()

"""Where a model comes from, read off what `kit.train` and `kit.data` leave on the disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from kit.package.proof.provenance import provenance, shortened
from kit.training.card import front_matter
from kit.training.checkpoint_files import Manifest, data_name, strict_json

CARD: dict[str, Any] = {
    "licences": {"mit": 30, "apache-2.0": 12, "": 3},
    "sha256": "f" * 64,
    "sources": [{"name": "one", "path": "/home/somebody/sets/one.jsonl", "licences": ["mit"]}],
}


def make_run(out: Path, *, base: str, data: Path | str, phase: str = "distill", step: int = 8) -> Path:
    """What a finished run leaves: `out`/model, and the manifest of its last checkpoint."""
    (out / "model").mkdir(parents=True)
    identity = {"phase": phase, "model.path": base, "data.path": str(data), "optimizer.lr": 1e-4}
    state = {"revision": "abc+", "recipe": {"out": str(out), "model": {"path": base}, "seed": 0}}
    folder = out / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    files = {data_name(kind, 0, 1): {"bytes": 1, "sha256": "0" * 64} for kind in ("shard", "state")}
    manifest = Manifest.model_validate(
        {
            "step": step,
            "world_size": 1,
            "token": "t",
            "identity": identity,
            "metric": None,
            "state": state,
            "files": files,
        }
    )
    (folder / "manifest.json").write_text(strict_json(manifest.model_dump(), "manifest"))
    return out / "model"


def make_data(folder: Path, card: object = CARD) -> Path:
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text("{}\n")
    (folder / "card.json").write_text(json.dumps(card))
    return folder / "records.jsonl"


def test_a_model_of_nowhere_has_no_origin(tmp_path: Path) -> None:
    found = provenance(tmp_path)
    assert found.record() == {"card": {}, "runs": [], "origin": {}, "data_licences": {}}
    assert found.released is None


def test_a_chain_of_runs_is_followed_to_its_base(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\nreleased: 2025-08-05\n---\n")
    data = make_data(tmp_path / "data")
    first = make_run(tmp_path / "one", base=str(base), data=data)
    second = make_run(
        tmp_path / "two", base=str(first), data="open-r1/OpenR1-Math-220k", phase="grpo", step=90
    )
    found = provenance(second)
    assert [run["phase"] for run in found.runs] == ["grpo", "distill"]
    assert [run["step"] for run in found.runs] == [90, 8]
    assert len({run["id"] for run in found.runs}) == 2
    assert found.runs[0]["revision"] == "abc+"
    assert found.runs[1]["recipe"]["model"] == {"path": f"{tmp_path.name}/base"}
    assert found.runs[1]["data"]["sha256"] == "f" * 64
    assert found.runs[1]["data"]["sources"][0]["set"] == "sets/one.jsonl"
    assert found.data_licences == {"": 3, "apache-2.0": 12, "mit": 30}
    assert found.data_unknown == ["open-r1/OpenR1-Math-220k"]
    assert found.released == "2025-08-05"
    assert str(tmp_path) not in json.dumps(found.record())


def test_the_same_run_has_the_same_id_wherever_it_lies(tmp_path: Path) -> None:
    ids = [
        provenance(make_run(tmp_path / name, base="org/base", data="org/set")).runs[0]["id"]
        for name in ("a", "b")
    ]
    assert ids[0] == ids[1]


def test_the_latest_whole_checkpoint_tells(tmp_path: Path) -> None:
    model = make_run(tmp_path / "run", base="org/base", data="org/set")
    broken = tmp_path / "run" / "checkpoints" / "step-00000009"
    broken.mkdir()
    assert provenance(model).runs[0]["step"] == 8
    (broken / "manifest.json").write_text("{")
    assert provenance(model).runs[0]["step"] == 8


def test_a_run_that_began_with_its_own_model_ends_the_chain(tmp_path: Path) -> None:
    model = make_run(tmp_path / "run", base=str(tmp_path / "run" / "model"), data="x")
    assert len(provenance(model).runs) == 1
    # Two runs that name each other end as well.
    one, two = tmp_path / "r1", tmp_path / "r2"
    make_run(one, base=str(two / "model"), data="x")
    make_run(two, base=str(one / "model"), data="x")
    assert len(provenance(one / "model").runs) == 16


def test_the_users_day_is_taken_before_the_cards(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text('---\nrelease_date: "2024-01-31"\n---\nreleased: 2020-01-01\n')
    assert provenance(tmp_path).released == "2024-01-31"
    assert provenance(tmp_path, "2025-02-28").released == "2025-02-28"
    with pytest.raises(ValueError, match="release date '2025-02-30' is not a day"):
        provenance(tmp_path, "2025-02-30")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no front matter\nlicense: mit\n", {}),
        ("---\nlicense: mit\nbase_model: Qwen/Qwen3-8B\ntags: [a]\n---\n", ["license", "base_model"]),
        ("---\nlicense: |\n  long\nreleased: 2025-01-01\n", ["released"]),
        ("", {}),
    ],
)
def test_single_lines_of_the_front_matter_are_read(tmp_path: Path, text: str, expected: object) -> None:
    (tmp_path / "README.md").write_text(text)
    assert list(front_matter(tmp_path / "README.md")) == list(expected)  # type: ignore[call-overload]


def test_a_card_of_step_labels_has_no_licences_and_a_broken_one_is_named(tmp_path: Path) -> None:
    steps = make_data(tmp_path / "steps", {"labels": 3})
    found = provenance(make_run(tmp_path / "a", base="b", data=steps))
    assert found.data_unknown == ["steps/records.jsonl"]
    broken = make_data(tmp_path / "broken", {"licences": ["mit"]})
    model = make_run(tmp_path / "c", base="b", data=broken)
    with pytest.raises(ValueError, match=r"broken/card\.json is not a data card"):
        provenance(model)


def test_the_default_models_origin_is_its_wheel(tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text('{"wheel": "x==1", "wheel_sha256": "00", "files": {}}')
    assert provenance(tmp_path).origin == {"wheel": "x==1", "wheel_sha256": "00"}


def test_places_are_cut_and_names_are_kept() -> None:
    given = {"a": ["/home/me/sets/x.jsonl", "org/model", 1], "b": "~/x", "c": "/x", "d": None}
    assert shortened(given) == {"a": ["sets/x.jsonl", "org/model", 1], "b": "~/x", "c": "x", "d": None}

"""Locks: which wheel is taken, what is refused, why a package is there."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import parse_tag

from kit.package.resolve.explain import because, explain
from kit.package.resolve.lock import ASKED, Lock, Pin, best_wheel, checked
from kit.package.targets import Target
from submission.checkpoint import LeftOut

CUDA = Target.parse("py312-manylinux_2_35-cuda")


def pin(name: str, *wanted_by: str, version: str = "1.0", size: int | None = 10, file: str = "") -> Pin:
    file = file or f"{name}-{version}-py3-none-any.whl"
    return Pin(name, version, file, "0" * 64, size, wanted_by or (ASKED,))


def lock(*pins: Pin) -> Lock:
    return Lock(CUDA.name, pins)


def test_the_way_to_a_package_is_the_shortest() -> None:
    found = lock(
        pin("top"),
        pin("low", "middle", "deep"),
        pin("middle", "top"),
        pin("deep", "deeper"),
        pin("deeper", "top"),
    )
    assert found.path("top") == ("top",)
    assert found.path("low") == ("top", "middle", "low")
    assert found.path("deep") == ("top", "deeper", "deep")


def test_packages_that_want_each_other_end_the_search() -> None:
    found = lock(pin("a", "b"), pin("b", "a"))
    assert found.path("a") == ("a",)
    assert because(found, "a") == "not known: nothing that was resolved names it"


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from([*"abcdefgh", ASKED]))))
def test_a_way_begins_at_what_was_asked_for_and_follows_wants(wants: dict[str, set[str]]) -> None:
    found = lock(*(pin(name, *sorted(by)) if by else pin(name, "gone") for name, by in wants.items()))
    for name in wants:
        path = found.path(name)
        assert path[-1] == name
        assert len(set(path)) == len(path)
        for parent, child in pairwise(path):
            assert parent in found.by_name[child].wanted_by
        assert len(path) == 1 or ASKED in found.by_name[path[0]].wanted_by


def test_a_lock_reads_back(tmp_path: Path) -> None:
    found = lock(pin("a"), pin("b", ASKED, "a", size=None))
    found.save(tmp_path / "lock.json")
    assert Lock.load(tmp_path / "lock.json") == found
    assert found.by_name["b"].line == f"b==1.0 --hash=sha256:{'0' * 64}"


def test_of_several_wheels_the_best_that_runs_is_taken() -> None:
    files = [
        "x-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
        "x-1.0-cp312-cp312-manylinux_2_34_x86_64.whl",
        "x-1.0-cp312-cp312-manylinux_2_36_x86_64.whl",
        "x-1.0-cp311-cp311-manylinux_2_35_x86_64.whl",
        "x-1.0-py3-none-any.whl",
        "x-1.0.tar.gz",
    ]
    assert best_wheel(files, CUDA) == "x-1.0-cp312-cp312-manylinux_2_34_x86_64.whl"
    assert best_wheel(files[2:4], CUDA) is None
    assert (
        best_wheel(["x-1.0-py3-none-any.whl", "x-1.0-2-py3-none-any.whl"], CUDA) == "x-1.0-2-py3-none-any.whl"
    )
    assert set(CUDA.ordered_tags) == CUDA.tags
    assert CUDA.ordered_tags[0] in parse_tag("cp312-cp312-manylinux_2_35_x86_64")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("b-1.0.tar.gz", r"refused: b 1\.0 \(b-1\.0\.tar\.gz\) came only as a source distribution"),
        ("b-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", r"refused: b 1\.0 .* does not run on py312"),
        ("b-1.0-cp312-cp312-manylinux_2_28_aarch64.whl", "does not run on"),
    ],
)
def test_a_choice_with_what_does_not_run_is_refused_by_name(file: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(CUDA, [pin("a"), pin("b", file=file)])


def test_a_build_for_cpus_is_refused_for_cuda_alone() -> None:
    chosen = [pin("a"), pin("torch", version="2.13.0+cpu")]
    with pytest.raises(ValueError, match=r"refused: torch 2\.13\.0\+cpu \(.*\) is built for CPUs .* py312"):
        checked(CUDA, chosen)
    assert checked(Target.parse("py312-manylinux_2_35-cpu"), chosen).by_name["torch"] == chosen[1]
    assert checked(CUDA, [pin("torch", version="2.13.0+cu130")]).pins


def test_the_table_has_every_wheel_largest_first_and_says_why() -> None:
    found = lock(pin("app", size=2_000_000), pin("lib", "app", "tool"), pin("tool", "app", size=None))
    table = explain(found, [LeftOut("wheels/lib", "left out by --leave-out")])
    assert list(table.columns[0].cells) == ["2.0", "0.0", "?"]
    names, reasons = ([str(cell) for cell in table.columns[place].cells] for place in (1, 3))
    assert names == ["app", "lib", "tool"]
    assert reasons == [
        "the project asks for it",
        "app (and 1 more); LEFT OUT: left out by --leave-out",
        "app",
    ]
    assert table.title == f"{CUDA.name}: 3 wheels, 2 MB, 1 of unknown size"

"""Sweeps: every combination once, each with a folder of its own."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.launch.sweep import points


def test_two_arrays_make_the_product() -> None:
    made = points(["lr=1e-6,2e-6", "batch.group_size=8,16"])
    assert [point.overrides for point in made] == [
        ("lr=1e-6", "batch.group_size=8"),
        ("lr=1e-6", "batch.group_size=16"),
        ("lr=2e-6", "batch.group_size=8"),
        ("lr=2e-6", "batch.group_size=16"),
    ]
    assert made[0].name == "lr=1e-6,batch.group_size=8"


def test_commas_in_brackets_and_quotes_divide_nothing() -> None:
    made = points(["betas=[0.9, 0.95],[0.9, 0.99]", 'label="a,b",c'])
    assert [point.overrides[0] for point in made[::2]] == ["betas=[0.9, 0.95]", "betas=[0.9, 0.99]"]
    assert [point.overrides[1] for point in made[:2]] == ['label="a,b"', "label=c"]


def test_a_name_is_a_folder() -> None:
    (point,) = points(["model.path=/a/b c"])
    assert point.name == "model.path=_a_b_c"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (["lr"], "'lr' is not of the form key=value,value"),
        (["lr="], "not of the form"),
        (["lr=1,,2"], "not of the form"),
        (["=1"], "not of the form"),
        (["lr=1", "lr=2"], "lr is given twice"),
        (["seed=1,2"], "seed is given twice"),
        (["out=a,b"], "a folder of its own by itself"),
        (["lr=1,1"], "two runs would share the folder lr=1"),
        (["model.path=a/b,a b"], "two runs would share the folder model.path=a_b"),
    ],
)
def test_bad_arrays_are_refused(arrays: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        points(arrays, taken=["seed=3"])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_there_are_as_many_runs_as_combinations(sizes: list[int]) -> None:
    made = points([f"k{index}={','.join(map(str, range(size)))}" for index, size in enumerate(sizes)])
    assert len({point.name for point in made}) == len(made) == math.prod(sizes)

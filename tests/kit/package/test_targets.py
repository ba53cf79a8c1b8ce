"""Names of targets and the wheels that run on them."""

import pytest
from packaging.tags import parse_tag, sys_tags

from kit.package.targets import Target


@pytest.mark.parametrize(
    ("name", "python", "uv_platform"),
    [
        ("py312-manylinux_2_28-cuda", "3.12", "x86_64-manylinux_2_28"),
        ("py311-manylinux_2_36-cpu", "3.11", "x86_64-manylinux_2_36"),
        ("py311-manylinux_2_30-cpu", "3.11", "x86_64-manylinux_2_28"),
        ("py312-manylinux_2_35_aarch64-cuda", "3.12", "aarch64-manylinux_2_35"),
    ],
)
def test_a_name_reads_back(name: str, python: str, uv_platform: str) -> None:
    target = Target.parse(name)
    assert (target.name, target.python, target.uv_platform) == (name, python, uv_platform)
    assert name.endswith(target.engine)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "py310-manylinux_2_28-cpu",
        "py3-manylinux_2_28-cpu",
        "py312-manylinux_2_28",
        "py312-manylinux_2_28-rocm",
        "py312-win_amd64-cpu",
        "py312-manylinux_2_28_s390x-cpu",
        "../py312-manylinux_2_28-cpu",
        "py312-manylinux_2_28-cpu\n",
    ],
)
def test_a_wrong_name_states_the_grammar(name: str) -> None:
    with pytest.raises(ValueError, match=r"pyXYZ-PLATFORM-cpu\|cuda"):
        Target.parse(name)


def test_this_machine_has_a_name_and_its_own_tags() -> None:
    target = Target.local()
    assert Target.parse(target.name) == target
    own = {tag for tag in sys_tags() if "linux" in tag.platform or tag.platform == "any"}
    assert {tag for tag in own if tag.interpreter.startswith("cp")} <= target.tags


@pytest.mark.parametrize(
    ("tag", "runs"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp312-cp312-manylinux_2_28_x86_64", True),
        ("cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp38-abi3-manylinux_2_28_x86_64", True),
        ("cp312-cp312-manylinux_2_31_x86_64", False),
        ("cp311-cp311-manylinux_2_28_x86_64", False),
        ("cp312-cp312-manylinux_2_28_aarch64", False),
        ("cp312-cp312-musllinux_1_2_x86_64", False),
        ("cp312-cp312-win_amd64", False),
        ("cp313-abi3-manylinux_2_28_x86_64", False),
    ],
)
def test_which_wheels_run_there(tag: str, runs: bool) -> None:
    assert bool(parse_tag(tag) & Target.parse("py312-manylinux_2_28-cuda").tags) is runs

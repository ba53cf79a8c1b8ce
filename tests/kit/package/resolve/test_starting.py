"""Packages that compile or download at their first use, and what the image of a contest can do to wheels."""

from pathlib import Path

import pytest

from kit.package.resolve.image import FOLDER, Image, check_image, load_image
from kit.package.resolve.lock import Pin
from kit.package.resolve.starting import RULE, check_start, companions, known
from kit.package.targets import Target

CUDA = Target.parse("py312-manylinux_2_35-cuda")
IMAGE = load_image("kaggle-py312")


def pins(**versions: str) -> list[Pin]:
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    return [Pin(name, version, f"{name}.whl", "0" * 64, 1, ()) for name, version in names.items()]


def test_flashinfer_alone_is_refused_with_both_companions_named() -> None:
    chosen = pins(flashinfer_python="0.7.0.post1", numpy="2.3.5")
    (breach,) = check_start(chosen, known()).breaches
    assert breach.rule == f"{RULE}:flashinfer-python"
    assert "flashinfer-cubin==0.7.0.post1 is not among the wheels" in breach.found
    assert "flashinfer-jit-cache==0.7.0.post1 is not among the wheels" in breach.found
    assert "--leave-out flashinfer-python" in breach.fix
    assert companions(chosen, known()) == [
        "flashinfer-cubin==0.7.0.post1",
        "flashinfer-jit-cache==0.7.0.post1",
    ]


def test_flashinfer_with_companions_of_its_very_version_starts_offline() -> None:
    chosen = pins(flashinfer_python="0.7.0", flashinfer_cubin="0.7.0", flashinfer_jit_cache="0.7.0+cu130")
    found = check_start(chosen, known())
    assert (found.breaches, found.notes) == ([], [])
    assert companions(chosen, known()) == []


@pytest.mark.parametrize("version", ["0.7.0.post1", "0.7.01.dev0", "0.6.14", "0.7.0.post1+cu130"])
def test_a_companion_of_another_version_is_named(version: str) -> None:
    chosen = pins(flashinfer_python="0.7.0", flashinfer_cubin=version, flashinfer_jit_cache="0.7.0+cu130")
    (breach,) = check_start(chosen, known()).breaches
    assert f"flashinfer-cubin is {version}, and its import fails unless it is 0.7.0" in breach.found
    assert "jit-cache" not in breach.found.partition("kernels at first use")[2].partition("cubin is")[0]


def test_what_downloads_is_refused_and_what_compiles_by_itself_is_told() -> None:
    found = check_start(pins(openai_harmony="0.0.8", oss_harmony="0.0.11", triton="3.7.1"), known())
    assert [breach.rule for breach in found.breaches] == [f"{RULE}:openai-harmony"]
    assert "TIKTOKEN_ENCODINGS_BASE" in found.breaches[0].fix
    assert len(found.notes) == 1
    assert found.notes[0].startswith("triton 3.7.1 compiles")


def test_every_entry_says_where_it_is_known_from() -> None:
    for name, about in known().items():
        assert name == name.lower()
        assert len(about.source) > 20
        assert about.severity == "refuse" or not about.companions


def test_a_wrong_entry_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "known.toml").write_text(
        '[thing]\ndoes = "x"\nseverity = "perhaps"\nfix = "y"\nsource = "z"\n'
    )
    with pytest.raises(ValueError, match=r"known\.toml, \[thing\]: severity"):
        known(tmp_path / "known.toml")


def test_other_versions_in_the_image_are_no_clash() -> None:
    found = check_image(pins(numpy="2.3.5", torch="2.13.0", einops="0.8.2"), CUDA, IMAGE)
    assert found.breaches == []
    assert found.notes[0].startswith("2 of the 3 wheels are in")


def test_an_image_with_another_python_or_an_older_glibc_is_refused() -> None:
    found = check_image([], Target.parse("py311-manylinux_2_36-cuda"), IMAGE)
    assert [breach.rule for breach in found.breaches] == ["image-python", "image-glibc"]
    assert "--target py312-..." in found.breaches[0].fix
    assert "manylinux_2_35" in found.breaches[1].fix


def test_generated_code_wants_no_older_runtime() -> None:
    found = check_image(pins(protobuf="5.28.3", grpcio="1.85.1"), CUDA, IMAGE)
    assert [breach.rule for breach in found.breaches] == ["image-protobuf"]
    assert IMAGE.packages["protobuf"] in found.breaches[0].fix


@pytest.mark.parametrize(
    ("runtime", "driver", "rule"),
    [
        ("13.0.96", "570.133", "image-driver"),
        ("13.0.96", "580.65.06", None),
        ("12.8.90", "570.133", None),
        ("12.8.90", "", None),
    ],
)
def test_cuda_needs_a_driver_that_is_new_enough(runtime: str, driver: str, rule: str | None) -> None:
    found = check_image(pins(nvidia_cuda_runtime=runtime), CUDA, IMAGE.model_copy(update={"driver": driver}))
    assert [breach.rule for breach in found.breaches] == ([rule] if rule else [])
    assert any("not known: look at nvidia-smi" in note for note in found.notes) == (not driver)


def test_an_image_with_an_old_pip_cannot_install() -> None:
    old = IMAGE.model_copy(update={"packages": {"pip": "21.3"}})
    assert [breach.rule for breach in check_image([], CUDA, old).breaches] == ["image-pip"]


def test_shipped_images_are_read_and_others_are_named(tmp_path: Path) -> None:
    for path in FOLDER.glob("*.toml"):
        image = load_image(path.stem)
        assert image.source and image.date and image.packages
    with pytest.raises(ValueError, match="no image 'kagle': name one of kaggle-py312"):
        load_image("kagle")
    own = tmp_path / "own.toml"
    own.write_text(
        'title = "x"\nsource = "y"\ndate = "z"\npython = "3.12"\nglibc = 35\n[packages]\nA_b = "1"\n'
    )
    assert load_image(str(own)).packages == {"a-b": "1"}
    own.write_text(own.read_text().replace('"1"', '"one"'))
    with pytest.raises(ValueError, match="A_b = 'one' is not a version"):
        load_image(str(own))
    assert isinstance(IMAGE, Image)

"""Planted faults: each is caught, by the earliest that can see it, in words that name the file and the fix.

Most are planted twice: as damage, which the manifest tells, and by somebody whose manifest was made to fit.
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kit.package.__main__ import app
from kit.package.audit import audit, check_contents
from kit.package.build import build
from kit.package.contents import plan
from kit.package.making import Request, inspect_models
from kit.package.rehearse import rehearse_bundle
from kit.package.targets import Target
from kit.package.wheels import Wheelhouse, describe
from submission.bundle import Bundle, load_manifest, verify
from submission.checkpoint import inspect
from submission.settings import ContestSettings
from tests.command import call
from tests.kit.package.acting import make_acting_bundle
from tests.kit.package.made import make_bundle, make_checkpoint, make_wheel, make_wheelhouse, tree
from tests.kit.package.test_splitting import split_bundle

HERE = Target.local()
OTHER = f"cp3{23 - HERE.minor}-cp3{23 - HERE.minor}-manylinux_2_17_{HERE.machine}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    wheel = make_wheel(folder / "wheels")
    needs = make_wheel(folder / "wheels", name="needy", requires=("smallthing>=1.0",))
    house = make_wheelhouse(folder / "wheels", needs, wheel)
    return make_bundle(folder / "b", make_checkpoint(folder / "model", shards=2), house)


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """Each test's own, to be damaged."""
    return shutil.copytree(built, tmp_path / "b", symlinks=True)


def made_to_fit(bundle: Path) -> Path:
    """Write the manifest anew over whatever the folder now holds, as a careless or hostile builder does."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    content["files"] = [
        {
            "path": file.relative_to(bundle).as_posix(),
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(bundle.rglob("*"))
        if file.is_file() and file != path
    ]
    path.write_text(json.dumps(content))
    return bundle


def relock(bundle: Path) -> None:
    """Write requirements.txt anew over the wheels that are there."""
    lines = []
    for wheel in sorted((bundle / "wheels").glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    (bundle / "requirements.txt").write_text("".join(lines))


def damage(bundle: Path) -> list[tuple[str, str]]:
    return [(problem.path, problem.message) for problem in verify(bundle)]


def faults(bundle: Path) -> str:
    """What the audit says of a bundle whose manifest fits."""
    assert verify(bundle) == []
    return "\n".join(map(str, audit(Bundle.open(bundle))))


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_a_good_bundle_has_no_faults(bundle: Path) -> None:
    assert faults(bundle) == ""
    assert "belong together" in check_contents(Bundle.open(bundle))


# --- damage that the manifest tells ------------------------------------------------------------------


def test_a_removed_wheel(bundle: Path) -> None:
    next((bundle / "wheels").glob("smallthing*")).unlink()
    assert damage(bundle) == [
        (
            "wheels/smallthing-1.0-py3-none-any.whl",
            "is in the manifest but not in the folder; copy or build the bundle again",
        )
    ]


def test_a_flipped_bit_in_the_weights(bundle: Path) -> None:
    flip(bundle / "model" / "model-00001-of-00002.safetensors")
    ((path, message),) = damage(bundle)
    assert path == "model/model-00001-of-00002.safetensors"
    assert "not what was built" in message
    assert "copy the bundle again" in message


def test_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("outside")
    (bundle / "model" / "merges.txt").symlink_to(secret)
    shutil.copy(bundle / "contest.toml", tmp_path / "copy.toml")
    (bundle / "contest.toml").unlink()
    (bundle / "contest.toml").symlink_to(tmp_path / "copy.toml")
    assert [(path, "symbolic link" in message) for path, message in damage(bundle)] == [
        ("contest.toml", True),
        ("model/merges.txt", True),
    ]
    # Made to fit: still a link, whatever its content.
    made_to_fit(bundle)
    assert ("contest.toml", True) in [(path, "symbolic link" in message) for path, message in damage(bundle)]


@pytest.mark.parametrize("path", ["../outside", "model/../../outside", "/etc/hostname"])
def test_a_manifest_that_leads_out_of_the_bundle(bundle: Path, path: str) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    content["files"].append({"path": path, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()})
    (bundle / "manifest.json").write_text(json.dumps(content))
    for check in (verify, load_manifest):
        with pytest.raises(ValueError, match=rf"manifest\.json.*'{path}'.*build the bundle again"):
            check(bundle if check is verify else bundle / "manifest.json")


# --- the same and worse, with a manifest that fits ---------------------------------------------------


def test_a_removed_wheel_whose_lock_stands(bundle: Path) -> None:
    next((bundle / "wheels").glob("smallthing*")).unlink()
    found = faults(made_to_fit(bundle))
    assert "requirements.txt has no wheel for smallthing==1.0" in found
    assert "build the bundle again with its wheels" in found


def test_a_removed_wheel_whose_lock_went_too(bundle: Path) -> None:
    next((bundle / "wheels").glob("smallthing*")).unlink()
    relock(bundle)
    wheel = "wheels/needy-1.0-py3-none-any.whl"
    expected = f"{wheel} needs smallthing>=1.0, and wheels/ has none; build the bundle again"
    assert faults(made_to_fit(bundle)) == expected


def test_what_the_build_left_out_on_purpose_is_not_missed(bundle: Path) -> None:
    next((bundle / "wheels").glob("smallthing*")).unlink()
    relock(bundle)
    path = bundle / "manifest.json"
    left_out = [{"path": "wheels/smallthing", "reason": "a reason"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "left_out": left_out}))
    assert faults(made_to_fit(bundle)) == ""


def test_an_older_wheel_than_another_needs(bundle: Path) -> None:
    next((bundle / "wheels").glob("smallthing*")).unlink()
    make_wheel(bundle / "wheels", version="0.9")
    relock(bundle)
    assert "needs smallthing>=1.0, and wheels/ has 0.9" in faults(made_to_fit(bundle))


def test_a_wheel_of_another_python(bundle: Path, tmp_path: Path) -> None:
    path = make_wheel(bundle / "wheels", name="other", tag=OTHER)
    # The build refuses it, and so does the audit where somebody put it there.
    with pytest.raises(ValueError, match=rf"other-1\.0-{OTHER}.*does not run on {HERE.name}; remove it"):
        describe(path, HERE)
    assert [found[0] for found in damage(bundle)] == [f"wheels/{path.name}"]
    relock(bundle)
    found = faults(made_to_fit(bundle))
    assert f"wheels/{path.name} does not run on {HERE.name}; build the bundle again" in found


def test_a_source_distribution(bundle: Path) -> None:
    (bundle / "wheels" / "thing-1.0.tar.gz").write_bytes(b"x")
    assert "wheels/thing-1.0.tar.gz is not a wheel" in faults(made_to_fit(bundle))


def test_a_wheel_that_the_lock_does_not_mean(bundle: Path) -> None:
    make_wheel(bundle / "wheels", source="VALUE = 'evil'\n")
    make_wheel(bundle / "wheels", name="stowaway")
    found = faults(made_to_fit(bundle))
    assert "smallthing-1.0-py3-none-any.whl is not the wheel that requirements.txt locks" in found
    assert "stowaway-1.0-py3-none-any.whl is not in requirements.txt" in found


def test_a_config_of_another_model(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "model" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "hidden_size": 16}))
    assert [found[0] for found in damage(bundle)] == ["model/config.json"]
    found = faults(made_to_fit(bundle))
    assert "model/config.json is not of these weights: hidden_size is 16 and" in found
    assert "take config and weights from one checkpoint" in found


def test_a_missing_tokenizer(bundle: Path, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "bare")
    (model / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer: tokenizer\.json or .*is missing"):
        inspect(model)
    (bundle / "model" / "tokenizer.json").unlink()
    assert [found[0] for found in damage(bundle)] == ["model/tokenizer.json"]
    assert "no tokenizer: tokenizer.json or" in faults(made_to_fit(bundle))


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    "name",
    ["model/pytorch_model.bin", "model/merges.txt", "extra/state.pt", "prm.json", "licenses/model/NOTICE"],
)
def test_a_pickle_under_any_name(bundle: Path, tmp_path: Path, name: str) -> None:
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(Payload(tmp_path / "was-run")))
    assert name in [found[0] for found in damage(bundle)]
    assert f"{name} is a pickle, which can run code when it is loaded; convert it" in faults(
        made_to_fit(bundle)
    )
    assert not (tmp_path / "was-run").exists()


def test_a_pickle_in_the_checkpoint_is_left_out_of_the_build(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model")
    (model / "optimizer.pt").write_bytes(pickle.dumps({}))
    out = make_bundle(tmp_path / "b", model)
    assert not list(out.rglob("*.pt"))
    assert faults(out) == ""


@pytest.mark.parametrize(
    "name", ["sitecustomize.py", "usercustomize.py", "evil.pth", "json.py", "model/modeling.py", "extra/x.so"]
)
def test_code_outside_its_place(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("import socket; socket.create_connection(('198.51.100.1', 443))\n")
    assert name in [found[0] for found in damage(bundle)]
    found = faults(made_to_fit(bundle))
    assert f"{name} is code outside submission/" in found
    assert "remove it and build again" in found


@pytest.mark.parametrize("name", ["submission/bundle.pyc", "submission/fast.so", "submission/x.pth"])
def test_compiled_code_beside_the_shipped(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"\0")
    assert f"{name} is compiled code or a start-up hook" in faults(made_to_fit(bundle))


@pytest.mark.parametrize(
    "name", ["sitecustomize.py", "usercustomize.py", "hook.pth", "x-1.0.data/purelib/sitecustomize.py"]
)
def test_a_wheel_that_brings_a_start_up_hook(bundle: Path, name: str) -> None:
    make_wheel(bundle / "wheels", name="hooked", extra={name: b"import socket\n"})
    relock(bundle)
    found = faults(made_to_fit(bundle))
    assert "wheels/hooked-1.0-py3-none-any.whl holds" in found
    assert "which Python runs at every start" in found


def test_settings_of_another_kit(bundle: Path) -> None:
    (bundle / "contest.toml").write_text("[rules]\nmagic = 1\n")
    assert "contest.toml is not usable:" in faults(made_to_fit(bundle))


def test_a_wheel_in_parts_is_looked_into_as_well(tmp_path: Path) -> None:
    out = split_bundle(tmp_path)
    assert faults(out) == ""
    part = next((out / "wheels").glob("*.part-004"))
    part.write_bytes(part.read_bytes()[:-30] + bytes(30))
    assert "is not a whole wheel" in faults(made_to_fit(out))


# --- hostile archives --------------------------------------------------------------------------------


def linked(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


HOSTILE: dict[str, tuple[dict[Any, bytes], str]] = {
    "a path upwards": ({"../../outside.py": b""}, "would write outside its folder"),
    "an absolute path": ({"/tmp/outside.py": b""}, "would write outside its folder"),
    "a path upwards inside": ({"a/../../outside.py": b""}, "would write outside its folder"),
    "a drive": ({"C:/outside.py": b""}, "would write outside its folder"),
    "a link": ({linked("link"): b"/etc"}, "holds a symbolic link"),
    "a bomb": ({"zeros.bin": bytes(96 << 20)}, "would unpack to"),
    "another package": ({"evil-1.0.dist-info/METADATA": b"Name: evil\n"}, "2 METADATA files"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive(bundle: Path, tmp_path: Path, name: str) -> None:
    extra, message = HOSTILE[name]
    make_wheel(bundle / "wheels", name="hostile", extra=extra)
    relock(bundle)
    before = tree(tmp_path)
    found = faults(made_to_fit(bundle))
    assert "wheels/hostile-1.0-py3-none-any.whl" in found
    assert message in found
    after = tree(tmp_path)
    del before["b/manifest.json"], after["b/manifest.json"]
    assert after == before


# --- what only running shows -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_start_up_hook_that_opens_a_socket_fails_the_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its author has the audit look away: the guard still sees who asks, and from where."""
    bundle = make_acting_bundle(tmp_path, monkeypatch)
    hook = (
        b"import socket\ntry:\n    socket.create_connection(('telemetry.example', 443), timeout=3)\n"
        b"except OSError:\n    pass\n"
    )
    make_wheel(bundle / "wheels", name="hooked", extra={"sitecustomize.py": hook})
    relock(bundle)
    made_to_fit(bundle)
    with pytest.raises(ValueError, match=r"wheels/hooked-1\.0-py3-none-any\.whl holds 'sitecustomize\.py'"):
        rehearse_bundle(bundle, python=sys.executable, time_limit=60)
    monkeypatch.setattr("kit.package.wheel_audit.START_HOOKS", frozenset())
    with pytest.raises(
        ValueError,
        match=r"site-packages/sitecustomize\.py:3 asks for telemetry\.example whenever Python starts",
    ):
        rehearse_bundle(bundle, python=sys.executable, time_limit=60)
    assert not bundle.with_name("b.rehearsal.json").exists()


ESCAPES: dict[str, Callable[[Path], str | zipfile.ZipInfo]] = {
    "upwards": lambda _: "../../../../../outside.py",
    "absolute": lambda folder: f"{folder}/outside.py",
    "in a script": lambda _: "hostile-1.0.data/scripts/../../../outside.py",
    "in data": lambda _: "hostile-1.0.data/data/../../outside.py",
    "through a link": lambda folder: linked("way"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", ESCAPES)
def test_pip_itself_writes_nothing_outside_the_environment(tmp_path: Path, way: str) -> None:
    """The install of a hostile wheel that got past everything else: refused, or kept inside."""
    from kit.package.offline import install_offline

    extra: dict[str | zipfile.ZipInfo, bytes] = {ESCAPES[way](tmp_path): str(tmp_path).encode()}
    if way == "through a link":
        extra["way/outside.py"] = b"x"
    make_wheel(tmp_path / "wheels", name="hostile", extra=extra)
    wheel = next((tmp_path / "wheels").iterdir())
    house = Wheelhouse(tmp_path / "wheels", (describe(wheel, HERE),))
    out = build(
        plan(inspect(make_checkpoint(tmp_path / "model")), ContestSettings(), HERE, house), tmp_path / "b"
    )
    with contextlib.suppress(ValueError):
        install_offline(out.folder, tmp_path / "env", sys.executable)
    assert [path for path in tmp_path.rglob("outside.py") if not path.is_relative_to(tmp_path / "env")] == []


def test_a_config_of_another_model_among_shards(tmp_path: Path) -> None:
    """The tensors of all shards are looked at together."""
    model = make_checkpoint(tmp_path / "model", shards=3)
    index = json.loads((model / "model.safetensors.index.json").read_text())
    name = index["weight_map"]["model.embed_tokens.weight"]
    save_file({"model.embed_tokens.weight": np.zeros((16, 12), np.float32)}, model / name)
    assert "model.embed_tokens.weight is 16 x 12" in faults(make_bundle(tmp_path / "b", model))


def test_the_build_refuses_a_config_of_another_model(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model")
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 16}))
    out = tmp_path / "bundle"
    with pytest.raises(ValueError, match=r"config.json is not of these weights: hidden_size is 16 and"):
        inspect_models(Request(out=out, model=model))
    assert not out.exists()


def test_the_command_line_says_the_same(bundle: Path) -> None:
    (bundle / "sitecustomize.py").write_text("")
    made_to_fit(bundle)
    done = call(app, "verify", "--contents", bundle)
    assert done.returncode == 1
    assert "sitecustomize.py is code outside submission/" in done.stderr

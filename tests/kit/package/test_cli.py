"""The command line of the packager, as a user calls it."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.package import __main__ as main
from submission.bundle import verify
from submission.settings import ContestSettings
from tests.kit.package.made import make_bundle, make_checkpoint

ROOT = Path(__file__).resolve().parents[3]


def package(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kit.package", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def test_a_build_and_its_check(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "aimo"
    done = package(
        "--model", model, "--out", out, "--no-wheels", "--profile", "demo", "--set", "solver.seed=7"
    )
    assert done.returncode == 0, done.stderr
    assert "manifest" in done.stdout
    assert "left out: model/README.md" in done.stderr
    assert "without wheels" in done.stderr
    assert verify(out) == []
    settings = ContestSettings.load(out / "contest.toml")
    assert (settings.rules.name, settings.solver.seed) == ("demo", 7)
    done = package("verify", out)
    assert done.returncode == 0
    assert "as built" in done.stdout
    (out / "extra").write_bytes(b"")
    done = package("verify", out)
    assert done.returncode == 1
    assert "added: extra" in done.stderr
    done = package("rehearse", out)
    assert done.returncode == 2
    assert "--no-wheels" in done.stderr


def test_a_dry_run_writes_nothing_and_downloads_nothing(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "aimo"
    target = "py312-manylinux_2_28-cuda"
    done = package(
        "--model", model, "--out", out, "--target", target, "--dry-run", "--wheel-cache", tmp_path / "w"
    )
    assert done.returncode == 0, done.stderr
    assert f"would build for {target}: LlamaForCausalLM model" in done.stdout
    assert "model/model.safetensors" in done.stdout
    assert "vllm==" in done.stdout
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]


def test_settings_come_from_a_file_too(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text('[rules]\nname = "own"\nanswer_max = 999\n')
    done = package("--model", model, "--out", tmp_path / "b", "--settings", recipe, "--no-wheels")
    assert done.returncode == 0, done.stderr
    assert ContestSettings.load(tmp_path / "b" / "contest.toml").rules.answer_max == 999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is missing"),
        (["--out", "OUT", "--profile", "aimo9"], "shipped profiles: aimo2, aimo3, demo"),
        (["--out", "OUT", "--set", "solver.num_agent=3"], "did you mean"),
        (["--out", "OUT", "--target", "windows"], "py312-manylinux_2_28-cuda"),
        (["--out", "OUT", "--model", "MISSING"], "is not a folder"),
        (["--out", "OUT", "--kaggle-user", "a/b", "--no-wheels"], "--kaggle-user"),
        (["--out", "MODEL"], "is not a bundle"),
        (["verify", "MISSING"], "manifest"),
        (["rehearse", "MISSING"], "manifest"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"OUT": tmp_path / "b", "MODEL": model, "MISSING": tmp_path / "missing"}
    given = [places.get(part, part) for part in arguments]
    if arguments and arguments[0] == "--out" and "--model" not in arguments:
        given += ["--model", model]
    done = package(*given)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["o[/b]", "o[bold]", "o[/x]", "o:smile:", "o[/b"])
def test_names_with_markup_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # a narrow bar would shorten the path
    model, out = make_checkpoint(tmp_path / f"m{name}"), tmp_path / name
    for command in (["--model", model, "--out", out, "--no-wheels"], ["verify", out]):
        done = package(*command)
        assert done.returncode == 0, done.stderr
        assert f"{out}: " in done.stdout
        assert f"ing {out}" in done.stderr
    done = package("--model", model, "--out", tmp_path / "p", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"LlamaForCausalLM {model.name}\n" in done.stdout
    done = package("rehearse", out)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_a_wheel_cache_with_markup_in_its_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    cache = tmp_path / "w[/b]"
    done = package("--model", model, "--out", tmp_path / "b", "--wheel-cache", cache)
    assert done.returncode == 2
    assert f"(kept in {cache}/" in done.stderr
    assert "pip could not resolve" in done.stderr


def test_the_default_wheel_cache_is_the_repositorys() -> None:
    defaults = inspect.signature(main.package).parameters
    assert defaults["wheel_cache"].default == ROOT / "build" / "wheels"


def test_help_tells_all_commands() -> None:
    done = package("--help")
    assert done.returncode == 0
    for word in ("verify", "rehearse", "--model", "--target", "--dry-run", "--kaggle-user"):
        assert word in done.stdout


def test_an_output_that_cannot_be_written_is_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = package("--model", model, "--out", tmp_path / "file" / "b", "--no-wheels")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_a_name_that_is_not_unicode_can_be_shown(model: Path, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "b", model)
    (out / "bad\udcff").write_bytes(b"")
    done = package("verify", out)
    assert done.returncode == 1
    assert "added: bad\\udcff" in done.stderr

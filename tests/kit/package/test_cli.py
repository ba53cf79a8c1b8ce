"""The command line of the packager, as a user calls it."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit.package import __main__ as main
from kit.package import show
from kit.package.contents import changed_files, check_clean, git_state
from submission.bundle import Bundle, verify
from submission.preflight import check_licence, check_release
from submission.settings import ContestSettings
from tests.command import Said, call
from tests.kit.package.made import make_bundle, make_checkpoint
from tests.kit.package.proof.test_signature import make_key

ROOT = Path(__file__).resolve().parents[3]


def words_of(arguments: tuple[object, ...], clean: bool = False) -> list[str]:
    """A build is told that the checkout may be dirty, unless it must be `clean`."""
    words = [str(word) for word in arguments]
    if words and words[0] != "--help" and words[0].startswith("-") and not clean:
        words.append("--allow-dirty")
    return words


def package(*arguments: object, clean: bool = False) -> Said:
    """Run the packager in this process."""
    return call(main.app, *words_of(arguments, clean))


def package_alone(*arguments: object, clean: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the packager in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kit.package", *words_of(arguments, clean)],
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
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_process_of_its_own_builds_verifies_and_refuses(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    done = package_alone("--model", model, "--out", out, "--no-wheels")
    assert done.returncode == 0, done.stderr
    done = package_alone("verify", out)
    assert (done.returncode, "as built" in done.stdout) == (0, True)
    done = package_alone("--help")
    assert (done.returncode, "rehearse" in done.stdout) == (0, True)
    for words in (["--out", out, "--profile", "aimo9"], ["verify", model], ["rehearse", out]):
        done = package_alone(*words)
        assert done.returncode == 2, words
        assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr


# A closing tag of nothing is an error to rich; the others it would swallow or replace.
@pytest.mark.parametrize("name", ["o[/x]", "o[bold]:smile:[/b"])
def test_names_with_markup_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(show.console, "width", 300)  # a narrow bar would shorten the path
    model, out = make_checkpoint(tmp_path / f"m{name}"), tmp_path / name
    for command in (["--model", model, "--out", out, "--no-wheels"], ["verify", out]):
        done = package(*command)
        assert done.returncode == 0, done.stderr
        assert f"{out}: " in done.stdout
        assert f"ing {out}" in done.stderr
    done = package("--model", model, "--out", tmp_path / "p", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"LlamaForCausalLM {model.name}\n" in done.stdout
    assert package("rehearse", out).returncode == 2


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


def checkout(folder: Path) -> Path:
    """A git checkout of one file, clean."""
    folder.mkdir()
    (folder / "code.py").write_text("1\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run([str(shutil.which("git")), "-C", str(folder), *words], check=True)
    return folder


def test_a_dirty_checkout_is_refused_and_says_so_where_it_is_allowed(tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout")
    check_clean(root)
    state = git_state(root)
    assert state is not None and state["dirty"] is False and len(state["revision"]) == 40
    (root / "code.py").write_text("2\n")
    (root / "new.py").write_text("3\n")
    with pytest.raises(ValueError, match=r"2 changed files \(code\.py, new\.py\).*--allow-dirty"):
        check_clean(root)
    assert git_state(root) == {**state, "dirty": True}
    check_clean(tmp_path)  # no checkout at all


def test_the_command_asks_for_a_clean_checkout(model: Path, tmp_path: Path) -> None:
    arguments = ("--model", model, "--out", tmp_path / "b", "--dry-run", "--no-wheels")
    changed = changed_files(ROOT)
    done = package(*arguments, clean=True)
    if changed:
        assert (done.returncode, "--allow-dirty" in done.stderr) == (2, True)
    else:
        assert done.returncode == 0, done.stderr


def test_a_breach_of_the_contests_rules_stops_the_build_unless_ignored(model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nreleased: 2026-06-01\n---\n")
    out = tmp_path / "b"
    build = ["--model", model, "--out", out, "--no-wheels", "--rule", "released_before=2026-03-15"]
    build += ["--set", "rules.answer_max=999"]
    done = package(*build)
    assert done.returncode == 2
    assert "breaks 3 rules of aimo3" in done.stderr
    for word in ("cc-by-nc-4.0", "came out on 2026-06-01", "0 to 999"):
        assert word in done.stderr
    assert not out.exists()
    done = package(
        *build,
        *(
            "--ignore-rule",
            "model-licence",
            "--ignore-rule",
            "answer-range",
            "--model-released",
            "2025-08-05",
        ),
    )
    assert done.returncode == 0, done.stderr
    assert "rule model-licence is ignored" in done.stderr
    data = Bundle.open(out).manifest.data
    assert [breach["rule"] for breach in data["rules"]["ignored"]] == ["answer-range", "model-licence"]
    assert data["model"]["released"] == "2025-08-05"
    # The preflight at the contest reads the same manifest.
    rules = ContestSettings.load(out / "contest.toml").rules.model_copy(
        update={"released_before": "2025-08-05", "licenses": ("apache-2.0",)}
    )
    assert not check_release(rules, dict(data)).ok
    assert not check_licence(rules, dict(data)).ok


def test_a_signed_build_is_verified_by_its_signer(model: Path, tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    key, out = make_key(tmp_path / "keys", "mine"), tmp_path / "b"
    done = package("--model", model, "--out", out, "--no-wheels", "--sign", key)
    assert done.returncode == 0, done.stderr
    assert "b.sig" in done.stderr
    (tmp_path / "signers").write_text(f"me@example.org {key.with_suffix('.pub').read_text()}")
    check = ["verify", out, "--allowed-signers", tmp_path / "signers", "--signer"]
    done = package(*check, "me@example.org")
    assert done.returncode == 0, done.stderr
    assert "me@example.org" in done.stdout
    done = package(*check, "you@example.org")
    assert (done.returncode, "is no signature" in done.stderr) == (2, True)
    done = package("verify", out, "--signer", "me@example.org")
    assert (done.returncode, "go together" in done.stderr) == (2, True)


@pytest.mark.slow
def test_the_wheels_of_kaggles_machine_are_explained_without_weights(tmp_path: Path) -> None:
    done = package_alone(
        *("--explain", "--target", "py312-manylinux_2_35-cuda", "--wheel-cache", tmp_path), clean=True
    )
    if done.returncode == 2 and "could not resolve" in done.stderr:
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.strip()}
    assert len(rows) > 150
    assert "the project asks for it" in rows["vllm"]
    assert "vllm > torch" in rows["nvidia-cudnn-cu13"]
    assert float(rows["torch"].split()[0]) > 100
    assert "not rehearsed here" in done.stderr
    assert "image's packages" in done.stderr


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

"""Random damage and malice: every change is detected, nothing is written outside, nothing is executed."""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.package import contents
from kit.package.audit import audit
from kit.package.build import build
from kit.package.contents import plan
from kit.package.splitting import split
from kit.package.targets import Target
from submission.architectures import generating_architectures
from submission.bundle import Bundle, quick_check, verify
from submission.checkpoint import inspect
from submission.joining import join
from submission.settings import ContestSettings
from submission.setup import resolve
from submission.warming import warm
from tests.kit.package import fuzzing
from tests.kit.package.fuzzing import Case, Files, Watch
from tests.kit.package.made import make_checkpoint, make_wheel, make_wheelhouse
from tests.kit.package.test_splitting import big_wheel

KINDS = (fuzzing.damaged, fuzzing.damaged, fuzzing.malicious, fuzzing.misled, fuzzing.noisy)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a small bundle with one whole wheel and one in parts."""
    folder = tmp_path_factory.mktemp("fuzz")
    small = make_wheel(folder / "wheels")
    large = big_wheel(folder / "wheels", "largething", requires=["smallthing"])
    with pytest.MonkeyPatch.context() as patch:
        real = [item for item in contents._source_files() if item[0] in {"__init__.py", "files.py"}]
        patch.setattr(contents, "_source_files", lambda: real)
        house = make_wheelhouse(folder / "wheels", large, small)
        planned = plan(inspect(make_checkpoint(folder / "model")), ContestSettings(), Target.local(), house)
    biggest = max(item.size for item in planned.items if "large" not in item.path)
    out = build(split(planned, max(biggest, 9000)), folder / "b").folder
    assert list(out.rglob("*.part-001"))
    assert verify(out) == [] and audit(Bundle.open(out)) == []
    generating_architectures()  # asked once, in a process of its own, before the watch is on
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def load(root: Path, target: Path, digest: str) -> str:
    """Everything that a check and a start do with a bundle; what was found wrong with it, by whom."""
    said = []

    def read(name: str, part: Callable[[], object]) -> None:
        # Nothing but ValueError, and OSError where a file is not there, may come of any bundle.
        try:
            found = part()
        except (ValueError, OSError) as error:
            found = error
        if found:
            said.append(f"{name}: {found}")

    read("verify", lambda: verify(root))
    whole = not said
    read("quick_check", lambda: quick_check(root))
    for part in (
        lambda: resolve(root),
        lambda: inspect(Bundle.open(root).model),
        lambda: join(root, target / "joined"),
        lambda: warm(root, 2, 1 << 20),
    ):
        with contextlib.suppress(ValueError, OSError):
            part()
    if whole:
        read("audit", lambda: audit(Bundle.open(root)))
        read("digest", lambda: Bundle.open(root).manifest.digest != digest)
    return "; ".join(said)


def told_by(case: Case) -> tuple[str, ...]:
    """Who has to notice: the manifest's own bytes have only its digest; malice has a manifest that fits."""
    return {
        "damage": ("verify",),
        "manifest": ("verify", "digest"),
        "malice": ("verify", "audit"),
        "noise": ("",),  # it may hit what no reader looks at; it must only do no harm
    }[case.kind]


def outside(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What lies around the bundle and in it: any file that appears, goes, or is written to changes it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def play(files: Files, watch: Watch, folder: Path, seeds: range) -> dict[str, int]:
    """Play the cases; returns how many of each kind there were."""
    whole = Case(dict(files), 0).write(folder / "whole")
    digest = Bundle.open(whole).manifest.digest
    counts: dict[str, int] = {}
    for seed in seeds:
        case = KINDS[seed % len(KINDS)](files, seed)
        place, target = folder / "case", folder / "target"
        root = case.write(place / "bundle")
        target.mkdir()
        label = f"seed {case.seed}, {case.kind}: {case.what}"
        before = outside(place)
        with watch.over(root, target) as seen:
            said = load(root, target, digest)
        assert seen == [], label
        assert outside(place) == before, label
        assert not list(folder.rglob("was-run")) and not Path("was-run").exists(), label
        assert any(name in said for name in told_by(case)), label
        if case.kind == "damage":
            assert case.files != files or case.after, label
        counts[case.kind] = counts.get(case.kind, 0) + 1
        shutil.rmtree(place)
        shutil.rmtree(target)
    return counts


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has a place for that: thousands of small files are slow on a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        yield Path(name)


def test_a_share_of_the_cases(files: Files, watch: Watch, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert set(play(files, watch, folder, range(50))) == {"damage", "malice", "manifest", "noise"}


@pytest.mark.slow
def test_two_thousand_cases(files: Files, watch: Watch, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = play(files, watch, folder, range(1000, 3000))
    assert sum(counts.values()) == 2000


def test_the_watch_sees(watch: Watch, tmp_path: Path) -> None:
    """What a reader that does harm would show."""
    import pickle
    import runpy
    import subprocess
    import sys

    root, target = tmp_path / "bundle", tmp_path / "target"
    root.mkdir()
    target.mkdir()
    (root / "evil.py").write_text("X = 1\n")
    with watch.over(root, target) as seen:
        runpy.run_path(str(root / "evil.py"))
        (tmp_path / "outside").write_text("x")
        (target / "inside").write_text("x")
        subprocess.run([sys.executable, "-c", ""], check=True)
        (tmp_path / "outside").rename(tmp_path / "renamed")
        pickle.loads(pickle.dumps(fuzzing.Case))  # noqa: S301 - what the watch has to see
    assert any(line.startswith("exec") and "evil.py" in line for line in seen)
    assert any("open for writing" in line and "outside" in line for line in seen)
    assert not any("inside" in line for line in seen)
    assert {line.split()[0] for line in seen} >= {"subprocess.Popen", "os.rename", "pickle.find_class"}

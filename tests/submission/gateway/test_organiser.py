"""The organiser's package is never shipped, so a package of the same outer shape stands in for it here.

It was written from the facts in the docstrings below; `AIMO_KAGGLE_EVALUATION` names a folder that holds
the real `kaggle_evaluation`, where somebody has it, and the last test then runs against that.
"""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from submission.engines.replay import write_recording
from submission.gateway import organiser
from submission.gateway.organiser import RERUN, Organiser, find_organiser
from tests.submission.gateway.stand_in import make_package
from tests.submission.virtual import boxed


def recording(path: Path) -> Path:
    write_recording(path, {f"x{n}": [boxed(2 * n, 0.2)] for n in (1, 2)})
    return path


def serve(folder: Path, work: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    recorded = recording(work / "r.jsonl")
    command = [sys.executable, "-m", "submission", "--serve", "--set", "engine.kind=replay"]
    command += ["--set", f"engine.recording={recorded}"]
    base = {key: value for key, value in os.environ.items() if not key.startswith("KAGGLE")}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        command,
        env={**base, "PYTHONPATH": path, "AIMO_INPUT": str(folder), **environment},
        cwd=work,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("layout", "flavour", "name"),
    [
        ("competitions/ai-mathematical-olympiad-progress-prize-3", "aimo_3", "AIMO3InferenceServer"),
        ("ai-mathematical-olympiad-progress-prize-2", "aimo_2", "AIMO2InferenceServer"),
        pytest.param("a-later-one", "aimo_14", "AIMO14InferenceServer", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("rerun", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_all_flavours_are_found_and_served(
    tmp_path: Path, layout: str, flavour: str, name: str, rerun: bool
) -> None:
    make_package(tmp_path / "input" / layout, flavour, name)
    work = tmp_path / "working"
    work.mkdir()
    done = serve(tmp_path / "input", work, **({"KAGGLE_IS_COMPETITION_RERUN": "1"} if rerun else {}))
    assert done.returncode == 0, done.stderr
    frame = pl.read_parquet(work / "submission.parquet")
    assert frame.to_dicts() == [{"id": "x1", "answer": 2}, {"id": "x2", "answer": 4}]


@pytest.mark.slow
def test_a_local_gateway_that_is_given_a_folder(tmp_path: Path) -> None:
    make_package(tmp_path / "input", "aimo_3", "AIMO3InferenceServer", by_folder=True)
    done = serve(tmp_path / "input", tmp_path)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "submission.parquet")["answer"].to_list() == [2, 4]


def test_a_folder_holds_its_problems_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def run_local_gateway(self, competition_data_folder: str) -> None:
            raise AssertionError(competition_data_folder)

    monkeypatch.delenv(RERUN, raising=False)
    monkeypatch.setattr(organiser, "make_server", lambda *_: Server())
    found = Organiser(tmp_path, "aimo_3", "AIMO3InferenceServer", None)
    with pytest.raises(ValueError, match=r"mine\.csv: this local gateway reads a file named test\.csv"):
        organiser.serve(found, print, tmp_path / "mine.csv")


def test_newest_flavour_first(tmp_path: Path) -> None:
    make_package(tmp_path / "a", "aimo_2", "AIMO2InferenceServer")
    for flavour in ("aimo_9", "aimo_10", "aimo_3", "aimo_11_old", "other_20"):
        (tmp_path / "a" / "kaggle_evaluation" / f"{flavour}_inference_server.py").write_text("")
    assert find_organiser([tmp_path]).flavour == "aimo_10"


def test_a_missing_package_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="add the competition as a data source") as caught:
        find_organiser([tmp_path])
    assert str(tmp_path) in str(caught.value)


def test_a_missing_package_is_exit_2_without_traceback(tmp_path: Path) -> None:
    done = serve(tmp_path, tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_broken_bundle_fails_at_commit_time_and_gives_defaults_in_the_rerun(tmp_path: Path) -> None:
    make_package(tmp_path / "input", "aimo_3", "AIMO3InferenceServer")
    work = tmp_path / "w"
    work.mkdir()
    command = [sys.executable, "-m", "submission", "--serve", "--bundle", str(tmp_path / "no-bundle")]
    root = str(Path(__file__).parents[3])

    def go(**more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": root, "AIMO_INPUT": str(tmp_path / "input"), **more},
            cwd=work,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    commit = go()
    assert commit.returncode == 2 and "Traceback" not in commit.stderr
    rerun = go(KAGGLE_IS_COMPETITION_RERUN="1")
    assert rerun.returncode == 0, rerun.stderr
    assert pl.read_parquet(work / "submission.parquet")["answer"].to_list() == [0, 0]


def test_the_real_package_where_somebody_has_it(tmp_path: Path) -> None:
    folder = os.environ.get("AIMO_KAGGLE_EVALUATION")
    if not folder:
        pytest.skip("AIMO_KAGGLE_EVALUATION does not name a folder with the organiser's kaggle_evaluation")
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "kaggle_evaluation").symlink_to(Path(folder) / "kaggle_evaluation")
    (tmp_path / "input" / "test.csv").write_text("id,problem\nx1,What is 1+1?\nx2,What is 2+2?\n")
    done = serve(tmp_path / "input", tmp_path)
    assert done.returncode == 0, done.stderr
    answers = pl.read_parquet(tmp_path / "submission.parquet").sort("id")
    assert answers.to_dicts() == [{"id": "x1", "answer": 2}, {"id": "x2", "answer": 4}]

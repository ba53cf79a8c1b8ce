"""Problem sets by their hub names: the real libraries read them from a hub on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared import ROOT
from submission.engines.replay import write_recording
from tests.hub_reading import assert_says, found_by, parquet
from tests.hub_server import DOWN, GATED_REFUSED, GATED_UNKNOWN, Hub, Repo, hub_server
from tests.submission.virtual import boxed

GSM8K_CARD = b"""---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: test
    path: socratic/test-*
---
"""
PROBLEM = {"problem": "What is $1+1$?", "solution": r"It is $\boxed{2}$.", "answer": "2"}
URL = {"url": "https://example.org/2024_AIME_I_Problems/Problem_1"}


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def train(*rows: dict[str, Any]) -> Repo:
    return Repo(
        {"README.md": b"---\nlicense: mit\n---\n", "data/train-00000-of-00001.parquet": parquet(*rows)}
    )


GSM8K_FILES = {
    "README.md": GSM8K_CARD,
    "main/train-00000-of-00001.parquet": parquet({"question": "Training?", "answer": "#### 1"}),
    "main/test-00000-of-00001.parquet": parquet(
        {"question": "Janet's ducks?", "answer": "16 - 3 = <<16-3=13>>13\n#### 1,300"}
    ),
    "socratic/test-00000-of-00001.parquet": parquet({"question": "Socratic?", "answer": "#### 5"}),
}
MATH500 = {"subject": "Precalculus", "level": 2, "unique_id": "test/precalculus/807.json"}
REPOS = {
    "HuggingFaceH4/aime_2024": train({"id": 60, **PROBLEM, **URL, "year": "2024"}),
    "math-ai/aime25": Repo({"test.jsonl": lines({"problem": "p?", "answer": "70", "id": "0"})}),
    "HuggingFaceH4/MATH-500": Repo({"test.jsonl": lines({**PROBLEM, "answer": r"\frac{1}{2}", **MATH500})}),
    "openai/gsm8k": Repo(GSM8K_FILES),
    "AI-MO/aimo-validation-aime": train({"id": 0, **PROBLEM, **URL}),
    "AI-MO/aimo-validation-amc": train({"id": 0, "problem": "p?", "answer": 142.0, **URL}),
    "AI-MO/aimo-validation-math-level-4": train({"id": 0, **PROBLEM, "answer": r"\sqrt{3}"}),
    "AI-MO/aimo-validation-math-level-5": train({"id": 0, **PROBLEM, "answer": "x + 1"}),
    "my/unanswered": train({"id": 0, "problem": "p?"}),
    "my/gated": Repo({}, GATED_UNKNOWN),
    "my/refused": Repo({}, GATED_REFUSED),
    "my/broken": Repo({"train.jsonl": lines(PROBLEM) * 100}, cut="train.jsonl"),
    "my/empty": Repo({"README.md": b"---\nlicense: mit\n---\n"}),
    "my/down": Repo({}, DOWN),
}
OWN = """
[wrong-split]
path = "HuggingFaceH4/MATH-500"
[no-configuration]
path = "openai/gsm8k"
split = "test"
[other-configuration]
path = "openai/gsm8k:other"
split = "test"
[unanswered]
path = "my/unanswered"
[unknown]
path = "my/unknown"
[gated]
path = "my/gated"
[refused]
path = "my/refused"
[broken]
path = "my/broken"
[empty]
path = "my/empty"
[down]
path = "my/down"
"""
# Every set in one process: the libraries alone take seconds to import.
LOAD = """
import json, sys
from pathlib import Path
import huggingface_hub.utils._http as http
http.time.sleep = lambda _seconds: None  # between its tries of a hub that is down
from benchmarks.run.sets import load_catalogue, load_set
found = {}
for name, spec in (known := load_catalogue(Path(sys.argv[1]))).items():
    try:
        items = load_set(name, known, None).items
        found[name] = [[item.id, item.text, item.gold.text] for item in items]
    except ValueError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with hub_server(REPOS) as found:
        yield found


@pytest.fixture(scope="module")
def loaded(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of every set of the shipped catalogue and `OWN`: its problems, or what was said."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "own.toml").write_text(OWN)
    return found_by(LOAD, str(folder / "own.toml"), hub, folder / "home")


@pytest.mark.slow
def test_every_set_of_the_catalogue_is_read_by_its_hub_name(loaded: dict[str, Any], hub: Hub) -> None:
    one = PROBLEM["problem"]
    assert {name: rows for name, rows in loaded.items() if isinstance(rows, list)} == {
        "aime24": [["60", one, "2"]],
        "aime25": [["0", "p?", "70"]],
        "math500": [["test/precalculus/807.json", one, r"\frac{1}{2}"]],
        "gsm8k": [["1", "Janet's ducks?", "1,300"]],
        "aimo-aime": [["0", one, "2"]],
        "aimo-amc": [["0", "p?", "142"]],
        "aimo-math4": [["0", one, r"\sqrt{3}"]],
        "aimo-math5": [["0", one, "x + 1"]],
    }
    assert any(asked.startswith("GET datasets/openai/gsm8k/resolve/") for asked in hub.asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("aimo3", ["is on no hub", "--data"]),
        ("unknown", ["my/unknown", "doesn't exist on the Hub", "Check the name"]),
        ("gated", ["my/gated", "gated dataset", "hf auth login"]),
        ("refused", ["my/refused", "gated dataset", "Ask for access"]),
        ("wrong-split", ["'train'", "Should be one of ['test']", "Set `split`"]),
        ("no-configuration", ["['main', 'socratic']", "after a colon"]),
        ("other-configuration", ["'other' not found", "'socratic'"]),
        ("unanswered", ["row 1: no column 'answer'", "found: id, problem"]),
        ("broken", ["my/broken", "Without a network, give the path of a local copy"]),
        ("empty", ["my/empty", "doesn't contain any data files"]),
        ("down", ["my/down", "cannot be reached", "Without a network"]),
    ],
)
def test_a_set_that_cannot_be_read_says_why(loaded: dict[str, Any], name: str, parts: list[str]) -> None:
    assert_says(loaded[name], parts)


@pytest.mark.slow
def test_a_contest_is_played_on_a_hub_set_and_an_unknown_one_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    write_recording(tmp_path / "samples.jsonl", {"60": [boxed(2, 0.1)]})
    (tmp_path / "own.toml").write_text('[lost]\npath = "my/unknown"\n')
    command = [
        *(sys.executable, "-m", "benchmarks.run", "--catalogue", str(tmp_path / "own.toml")),
        *("--data", str(tmp_path / "no copies"), "--time-limit", "60s"),
        *("--setting", "engine.kind=replay", "--setting", f"engine.recording={tmp_path / 'samples.jsonl'}"),
        *("--setting", "solver.num_agents=1", "--out", str(tmp_path / "run")),
    ]

    def play(name: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, "--set", name],
            env={**hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    lost = play("aime24,lost")
    assert lost.returncode == 2
    assert lost.stderr.splitlines()[-1].startswith("error: my/unknown")
    assert "Traceback" not in lost.stderr
    assert not (tmp_path / "run").exists()
    done = play("aime24")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["figures"]["aime24"]["accuracy"]["mean"] == 1.0

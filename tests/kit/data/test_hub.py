"""Training sets by their hub names: the real libraries read them from a hub on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared import ROOT
from tests.hub_reading import assert_says, found_by, parquet
from tests.hub_server import DOWN, GATED_REFUSED, Hub, Repo, hub_server

R1 = "<think>\nTwo and two.\n</think>\n\nIt is $\\boxed{4}$."
OPEN_R1 = {
    "problem": "What is 2 + 2?",
    "solution": "It is $\\boxed{4}$.",
    "answer": "4",
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "source": "olympiads",
    "uuid": "5e0a",
    "is_reasoning_complete": [True, True],
    "generations": [R1, "<think>\nA guess.\n</think>\n\n\\boxed{5}"],
    "correctness_math_verify": [True, False],
    "correctness_llama": [None, None],
    "finish_reasons": ["stop", "stop"],
    "correctness_count": 1,
    "messages": [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": R1}],
}
NUMINA = {
    "source": "synthetic_math",
    "problem": "What is 3 + 3?",
    "solution": "Adding gives $\\boxed{6}$.",
    "messages": [
        {"role": "user", "content": "What is 3 + 3?"},
        {"role": "assistant", "content": "Adding gives $\\boxed{6}$."},
    ],
}
STRATOS_ANSWER = (
    "<|begin_of_thought|>\n\nFour and four.\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\nIt is $\\boxed{8}$.\n\n<|end_of_solution|>"
)
STRATOS = {
    "system": "Think carefully.",
    "conversations": [
        {"from": "user", "value": "What is 4 + 4?"},
        {"from": "assistant", "value": STRATOS_ANSWER},
    ],
}
CARD = """---
license: apache-2.0
configs:
- config_name: all
  data_files:
  - split: default
    path: all/default-*
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""
REPOS = {
    "open-r1/OpenR1-Math-220k": Repo(
        {
            "README.md": CARD.encode(),
            "all/default-00000-of-00001.parquet": parquet(OPEN_R1),
            "data/train-00000-of-00001.parquet": parquet(OPEN_R1),
        }
    ),
    "AI-MO/NuminaMath-CoT": Repo(
        {
            "data/train-00000-of-00002.parquet": parquet(NUMINA),
            "data/train-00001-of-00002.parquet": parquet({**NUMINA, "problem": "What is 30 + 30?"}),
            "data/test-00000-of-00001.parquet": parquet({**NUMINA, "problem": "A test?"}),
        }
    ),
    "bespokelabs/Bespoke-Stratos-17k": Repo({"data/train-00000-of-00001.parquet": parquet(STRATOS)}),
    "my/table": Repo({"train.csv": b"q,a\nWhat is 1 + 1?,2\n"}),
    "my/refused": Repo({}, GATED_REFUSED),
    "my/down": Repo({}, DOWN),
    "my/torn": Repo({"train.jsonl": b'{"problem": "p?", "answer": "1"}\n' * 3 + b'{"problem": "p'}),
}
SOURCES: dict[str, dict[str, Any]] = {
    "openr1": {"source": "open-r1/OpenR1-Math-220k:default"},
    "openr1-first": {"source": "open-r1/OpenR1-Math-220k:default", "limit": 1},
    "numina": {"source": "AI-MO/NuminaMath-CoT"},
    "numina-test": {"source": "AI-MO/NuminaMath-CoT", "split": "test", "limit": 5},
    "stratos": {"source": "bespokelabs/Bespoke-Stratos-17k"},
    "mapped": {"source": "my/table", "columns": {"problem": "q", "answer": "a"}},
    "unmapped": {"source": "my/table"},
    "wrong-column": {"source": "my/table", "columns": {"problem": "question"}},
    "split": {"source": "AI-MO/NuminaMath-CoT", "split": "validation"},
    "split-of-a-stream": {"source": "AI-MO/NuminaMath-CoT", "split": "validation", "limit": 2},
    "unknown": {"source": "my/nothing"},
    "refused": {"source": "my/refused", "limit": 3},
    "down": {"source": "my/down"},
    "torn": {"source": "my/torn"},
    "torn-stream": {"source": "my/torn", "limit": 5},
}
READ = """
import json, sys
import huggingface_hub.utils._http as http
http.time.sleep = lambda _seconds: None  # between its tries of a hub that is down
from kit.data.readers import read
found = {}
for name, how in json.loads(sys.argv[1]).items():
    try:
        found[name] = [one.model_dump(exclude_defaults=True) for one in read(**how)]
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
    """What each of `SOURCES` gives: its records, or what was said."""
    return found_by(READ, json.dumps(SOURCES), hub, tmp_path_factory.mktemp("home"))


@pytest.mark.slow
def test_traces_come_as_their_sets_have_them(loaded: dict[str, Any]) -> None:
    right, wrong = loaded["openr1"]
    assert (right["problem"], right["answer"], right["completion"]) == ("What is 2 + 2?", "4", R1)
    assert (right["correct"], right["pass_rate"]) == (True, 0.5)
    assert (wrong["correct"], wrong["pass_rate"], wrong["attempt"]) == (False, 0.5, 1)
    (stratos,) = loaded["stratos"]
    assert (stratos["system"], stratos["problem"]) == ("Think carefully.", "What is 4 + 4?")
    assert stratos["completion"] == "<think>\nFour and four.\n</think>\n\nIt is $\\boxed{8}$."
    first, second = loaded["numina"]
    assert (first["answer"], first["completion"]) == ("6", "Adding gives $\\boxed{6}$.")
    assert first["source"] == "AI-MO/NuminaMath-CoT/synthetic_math"
    assert second["problem"] == "What is 30 + 30?"
    (mapped,) = loaded["mapped"]
    assert (mapped["problem"], mapped["answer"], mapped["source"]) == ("What is 1 + 1?", "2", "my/table")


@pytest.mark.slow
def test_a_limit_streams_the_first_records(loaded: dict[str, Any]) -> None:
    assert loaded["openr1-first"] == loaded["openr1"][:1]
    assert [one["problem"] for one in loaded["numina-test"]] == ["A test?"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unmapped", ["my/table", "no known set", "columns = {"]),
        ("wrong-column", ["my/table", "no column 'question'", "the set has a, q"]),
        ("split", ["'validation'", "'train', 'test'", "Set `split`"]),
        ("split-of-a-stream", ["'validation'", "'train', 'test'", "Set `split`"]),
        ("unknown", ["my/nothing", "doesn't exist on the Hub"]),
        ("refused", ["my/refused", "gated dataset", "Ask for access"]),
        ("down", ["my/down", "cannot be reached", "local copy"]),
        ("torn", ["my/torn", "cannot be read", "closing quotation"]),
        ("torn-stream", ["my/torn", "broke off", "closing quotation"]),
    ],
)
def test_a_set_that_cannot_be_read_says_why(loaded: dict[str, Any], name: str, parts: list[str]) -> None:
    assert_says(loaded[name], parts)


@pytest.mark.slow
def test_a_recipe_of_hub_sets_is_made_whole_or_not_at_all(hub: Hub, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
out = "{tmp_path / "made"}"
steps = ["verify", "contamination"]
[sources.openr1]
path = "open-r1/OpenR1-Math-220k:default"
[sources.stratos]
path = "bespokelabs/Bespoke-Stratos-17k"
[contamination.against]
numina = {{ path = "AI-MO/NuminaMath-CoT", split = "test" }}
"""
    )

    def make(*overrides: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "kit.data", str(recipe), *overrides],
            env={**hub.environment(tmp_path / "home"), "COLUMNS": "200"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    broken = make("sources.stratos.path=my/down-there")
    assert broken.returncode == 2
    assert "error: my/down-there" in broken.stderr and "Traceback" not in broken.stderr
    assert not list((tmp_path / "made").rglob("*.jsonl"))
    done = make()
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "made" / "records.jsonl").read_text().splitlines()]
    assert [row["problem"] for row in rows] == ["What is 2 + 2?"]

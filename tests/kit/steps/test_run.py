"""Whole runs with a real engine on a tiny model: killed, resumed, spread, labelled again, judged."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from kit.steps.judge import JudgeRecipe, run_consensus
from kit.steps.outcomes import Outcomes
from kit.steps.recipe import StepsRecipe
from kit.steps.records import StepCard, StepRecord, read_steps
from kit.steps.run import dry_run, run_steps
from tests.kit.traces.made import journal_lines, make_teacher

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("steps")
    rows = [
        {
            "problem": f"What is {number} modulo 2?",
            "answer": str(number % 2),
            "completion": "\n\n".join(
                [f"{number} is a number.", "It has a remainder.", f"\\boxed{{{guess}}}"][3 - steps :]
            ),
            "licence": "MIT",
        }
        for number, guess, steps in [(0, 0, 3), (1, 0, 3), (2, 1, 2), (3, 1, 3), (4, 0, 1), (5, 0, 2)]
    ]
    traces = folder / "traces.jsonl"
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": make_teacher(folder / "model"),
        "traces": str(traces),
        "rollouts": 6,
        "threshold": 0.3,
        "wave": 2,
        "pilot": 3,
        "agreement": 0.9,
        "max_tokens": 40,
        "engine": {"kind": "transformers", "max_num_seqs": 4},
    }


def run(options: dict[str, Any], out: Path, **more: Any) -> tuple[list[StepRecord], StepCard, str]:
    shown = io.StringIO()
    recipe = StepsRecipe(**{**options, "out": out, **more})
    card = run_steps(recipe, Console(file=shown, width=150))
    return list(read_steps(out / "steps.jsonl")), card, shown.getvalue()


@pytest.fixture(scope="module")
def undisturbed(
    options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[StepRecord], StepCard, Path]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    records, card, _ = run(options, out)
    return records, card, out


def drawn(out: Path) -> Outcomes:
    outcomes = Outcomes(out)
    outcomes.update()
    return outcomes


def test_records_say_what_was_drawn(undisturbed: tuple[list[StepRecord], StepCard, Path]) -> None:
    records, card, out = undisturbed
    assert [len(record.steps) for record in records] == [3, 3, 2, 3, 1, 2]
    assert [record.correct for record in records] == [True, False, False, True, True, False]
    outcomes = drawn(out)
    assert 0 < outcomes.correct < outcomes.rollouts == sum(sum(record.rollouts) for record in records)
    assert outcomes.repeated == outcomes.damaged == 0
    for record in records:
        assert record.rollouts[-1] == 0 and record.soft[-1] == record.labels[-1] == record.correct
        for label, soft, count in zip(record.labels, record.soft, record.rollouts, strict=True):
            assert soft is not None and (not count or count in (2, 4, 6))
            if count == 6:
                assert label == (soft * 6 >= 2)
    assert card == StepCard.model_validate_json((out / "card.json").read_text())
    assert card.records == 6 and card.licences == {"MIT": 6} and card.rollouts == outcomes.rollouts
    assert card.model == "model" and card.rollout_tokens == outcomes.tokens > 0


def start(options: dict[str, Any], out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "kit.steps", "--out", str(out), "--engine", options["engine"]["kind"]]
    for name in ("model", "traces", "rollouts", "threshold", "wave", "pilot", "agreement", "max_tokens"):
        command += [f"--{name.replace('_', '-')}", str(options[name])]
    command += ["--set", "engine.max_num_seqs=4"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def test_killed_again_and_again_it_repeats_no_rollout_and_loses_none(
    undisturbed: tuple[list[StepRecord], StepCard, Path], options: dict[str, Any], tmp_path: Path
) -> None:
    records, card, _ = undisturbed
    out = tmp_path / "out"
    for victim, wanted in (("parent", 1), ("worker", card.rollouts // 2)):
        process = start(options, out)
        deadline = time.monotonic() + 240
        while journal_lines(out) < wanted:
            assert time.monotonic() < deadline and process.poll() is None, "nothing happened"
            time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True)
        worker = next(child for child in children if "kit.steps.worker" in child.cmdline())
        os.kill(process.pid if victim == "parent" else worker.pid, signal.SIGKILL)
        errors = process.communicate()[1].decode()
        assert process.returncode == (-signal.SIGKILL if victim == "parent" else 1), errors
        psutil.wait_procs(children, timeout=30)
        assert not (out / "steps.jsonl").exists()
    held = drawn(out)
    assert 1 <= held.rollouts < card.rollouts
    # What a kill in the middle of a write leaves.
    journal = out / "journal-000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    again, told, shown = run(options, out, data_parallel=2)
    assert f"{held.rollouts - 1} roll-outs done" in shown
    assert again == records and told == card
    outcomes = drawn(out)
    assert outcomes.rollouts == card.rollouts and outcomes.repeated == 0 and outcomes.damaged == 1


def test_other_labels_from_the_same_rollouts(
    undisturbed: tuple[list[StepRecord], StepCard, Path], options: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fixed, card, _ = run(options, out, adaptive=False)
    inner = sum(len(record.steps) - 1 for record in fixed)
    assert card.rollouts == 6 * inner
    # All that the adaptive run needs is there: it draws nothing, and labels as if it had drawn itself.
    records, _, shown = run(options, out)
    assert records == undisturbed[0]
    assert "goes on" not in shown
    found, _, shown = run(options, out, adaptive=False, search="first_error")
    for record, whole in zip(found, fixed, strict=True):
        assert record.labels == sorted(record.labels, reverse=True)
        if record.correct:
            assert set(record.labels) == {1} and sum(record.rollouts) == 0
        for label, other, count in zip(record.labels, whole.labels, record.rollouts, strict=True):
            assert not count or label == other
    with pytest.raises(ValueError, match=r"temperature is '1.0' there and '0.5' here"):
        run(options, out, temperature=0.5)


def test_a_dry_run_tells_and_writes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    shown = io.StringIO()
    dry_run(StepsRecipe(**options, out=tmp_path / "out"), Console(file=shown, width=150))
    text = shown.getvalue()
    assert "6 traces, 14 steps, 8 prefixes to roll out at most" in text
    assert "at most 48 roll-outs of 6 a prefix and 1,920 tokens; 0 done" in text
    assert "expected: about" in text
    assert list(tmp_path.iterdir()) == []


def test_a_judge_that_says_nothing_useful_keeps_nothing(
    undisturbed: tuple[list[StepRecord], StepCard, Path], options: dict[str, Any], tmp_path: Path
) -> None:
    records, _, folder = undisturbed
    prompt = tmp_path / "prompt.toml"
    prompt.write_text('system = ""\nuser = "{problem}\\n{steps}\\n{last}"\n')
    recipe = JudgeRecipe(
        judge=options["model"],
        steps=folder,
        out=tmp_path / "out",
        prompt=prompt,
        max_tokens=120,
        temperature=1.0,
        seed=4,
        engine=options["engine"],
    )
    shown = io.StringIO()
    judged = run_consensus(recipe, Console(file=shown, width=150))
    kept = list(read_steps(tmp_path / "out" / "steps.jsonl"))
    assert judged.records == len(kept) and sum(judged.dropped.values()) == len(records) - len(kept)
    assert {record.id for record in kept} <= {record.id for record in records}
    assert judged.settings["rollouts"] == 6 and judged.settings["consensus"]["judge"] == "model"
    journal = tmp_path / "out" / "judge" / "journal-000.jsonl"
    before = journal.read_bytes()
    assert before.count(b"\n") == len(records)
    assert run_consensus(recipe, Console(file=shown, width=150)) == judged
    assert journal.read_bytes() == before


def test_vllm_draws_them_too(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    engine = {"kind": "vllm", "max_num_seqs": 4, "max_model_len": 512, "cpu_kv_cache_gib": 1}
    records, card, _ = run(
        options, tmp_path / "out", engine=engine, adaptive=False, rollouts=4, max_tokens=200
    )
    assert [record.rollouts for record in records] == [
        [4] * (len(record.steps) - 1) + [0] for record in records
    ]
    assert card.rollouts == 32 and drawn(tmp_path / "out").correct > 0

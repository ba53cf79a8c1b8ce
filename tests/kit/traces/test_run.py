"""Whole runs with a real engine on a tiny teacher: killed, resumed, spread, chosen again, scored."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from kit.data.records import Record, read_records
from kit.traces.journal import parse_line
from kit.traces.processes import WorkerError
from kit.traces.recipe import TraceRecipe, load_recipe
from kit.traces.run import dry_run, run_traces
from kit.traces.selection import distance
from kit.traces.topk import TopKReader
from kit.traces.worker import sample_seed
from submission.answers import check, parse_gold
from tests.kit.traces.made import journal_lines, make_dataset, make_teacher

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("traces")
    return {
        "teacher": make_teacher(folder / "teacher"),
        "dataset": str(make_dataset(folder / "problems.jsonl")),
        "samples": 6,
        "max_tokens": 300,
        "engine": {"kind": "transformers"},
    }


def run(options: dict[str, Any], out: Path, **more: Any) -> tuple[list[Record], str]:
    shown = io.StringIO()
    run_traces(recipe_of(options, out, **more), Console(file=shown, width=150))
    return list(read_records(out / "traces.jsonl")), shown.getvalue()


def recipe_of(options: dict[str, Any], out: Path, **more: Any) -> TraceRecipe:
    return load_recipe(None, {**options, "out": out, **more})


@pytest.fixture(scope="module")
def finished(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed; to be copied."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    _, shown = run(options, out, keep_wrong=True)
    assert "0 of 36 samples done" in shown and "samples 36/36" in shown
    return out


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> list[Record]:
    return list(read_records(finished / "traces.jsonl"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def assert_same(records: list[Record], others: list[Record]) -> None:
    """Equal but for the last digits of the log-probability, which depend on what else was in the batch."""
    plain = [
        [record.model_copy(update={"logprob": None, "topk": None}) for record in both]
        for both in (records, others)
    ]
    assert plain[0] == plain[1]
    for record, other in zip(records, others, strict=True):
        assert record.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_every_sample_is_verified_and_told(undisturbed: list[Record], options: dict[str, Any]) -> None:
    assert len(undisturbed) == 36
    right = [record for record in undisturbed if record.correct]
    assert 3 < len(right) < 33
    teacher_end = max(record.completion_ids[-1] for record in right)
    for record in undisturbed:
        # A completion that was cut off may hold the right box; it is not right for that.
        whole = record.completion_ids[-1] == teacher_end
        assert record.correct == (whole and check(record.completion, parse_gold(record.answer)))
        assert record.system and record.prompt_ids and record.teacher == "teacher"
        assert record.logprob is not None and record.logprob < 0
        same = [other for other in undisturbed if other.problem == record.problem]
        assert record.pass_rate == sum(bool(other.correct) for other in same) / 6
    assert len({record.completion_ids for record in undisturbed}) == 36


def test_wrong_answers_are_rejected(undisturbed: list[Record], options: dict[str, Any], copied: Path) -> None:
    records, shown = run(options, copied)
    assert_same(records, [record for record in undisturbed if record.correct])
    summary = json.loads((copied / "summary.json").read_text())
    assert summary["correct"] == summary["traces"] == len(records)
    assert summary["samples"] == 36 == sum(summary[key] for key in ("correct", "wrong", "unparseable", "cut"))
    assert summary["cut"] > 0
    assert f"│ {summary['cut']} " in shown


def start(options: dict[str, Any], out: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "kit.traces", "--out", str(out), "--engine", options["engine"]["kind"]]
    for name in ("teacher", "dataset", "samples", "max_tokens"):
        command += [f"--{name.replace('_', '-')}", str(options[name])]
    return subprocess.Popen([*command, *more], cwd=ROOT, stderr=subprocess.PIPE)


def wait_until(reached: Any, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_killed_and_resumed_gives_the_same_traces(
    undisturbed: list[Record], options: dict[str, Any], tmp_path: Path, victim: str
) -> None:
    out = tmp_path / "out"
    process = start(options, out, "--keep-wrong", "--set", "engine.max_num_seqs=2")
    wait_until(lambda: journal_lines(out) >= 5)
    workers = psutil.Process(process.pid).children(recursive=True)
    engine = next(child for child in workers if "kit.traces.worker" in child.cmdline())
    os.kill(process.pid if victim == "parent" else engine.pid, signal.SIGKILL)
    errors = process.communicate()[1].decode()
    assert process.returncode == (-signal.SIGKILL if victim == "parent" else 1)
    assert victim == "parent" or "worker 0 ended with code -9" in errors
    # Orphaned, the worker ends itself, and its checker with it.
    psutil.wait_procs(workers, timeout=30)
    assert not [child for child in workers if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    held = journal_lines(out)
    assert 5 <= held < 36
    assert not (out / "traces.jsonl").exists()
    # What a kill in the middle of a write leaves.
    journal = out / "journal-000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    records, shown = run(options, out, keep_wrong=True, data_parallel=2)
    assert f"{held - 1} of 36 samples done" in shown
    assert "1 journal lines were cut off" in shown
    assert_same(records, undisturbed)


def test_two_engines_give_what_one_gives(
    undisturbed: list[Record], options: dict[str, Any], tmp_path: Path
) -> None:
    records, _ = run(options, tmp_path / "out", keep_wrong=True, data_parallel=2)
    assert_same(records, undisturbed)
    counts = [path.read_bytes().count(b"\n") for path in sorted((tmp_path / "out").glob("journal-*.jsonl"))]
    assert counts == [18, 18]


def test_a_finished_run_is_chosen_from_again_without_a_model(
    undisturbed: list[Record], options: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(options, out, samples=4)
    # The first four attempts stand; two more each are drawn.
    records, shown = run(options, out, keep_wrong=True)
    assert "24 of 36 samples done" in shown
    assert_same(records, undisturbed)
    shortest, shown = run(options, out, select="shortest")
    assert "samples done" not in shown
    by_problem: dict[str, list[Record]] = {}
    for record in undisturbed:
        if record.correct:
            by_problem.setdefault(record.problem, []).append(record)
    expected = [min(some, key=lambda record: len(record.completion_ids)) for some in by_problem.values()]
    assert_same(shortest, expected)
    diverse, _ = run(options, out, select="diverse", keep=2)
    for problem, some in by_problem.items():
        chosen = [record.completion_ids for record in diverse if record.problem == problem]
        assert len(chosen) == min(2, len(some))
        if len(chosen) == 2:
            others = [distance(chosen[0], record.completion_ids) for record in some]
            assert distance(chosen[0], chosen[1]) == max(others)
    # Fewer samples again: the later attempts are left aside.
    fewer, _ = run(options, out, samples=4, keep_wrong=True)
    assert {record.attempt for record in fewer} == {0, 1, 2, 3}


def test_another_run_does_not_mix_in(options: dict[str, Any], copied: Path) -> None:
    out = copied
    before = (out / "journal-000.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"temperature is '1.0' there and '0.7' here"):
        run(options, out, temperature=0.7)
    process = start(options, out, "--seed", "3")
    assert "seed is '0' there and '3' here" in process.communicate()[1].decode()
    assert process.returncode == 2
    assert (out / "journal-000.jsonl").read_bytes() == before


def test_a_dry_run_tells_and_writes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    shown = io.StringIO()
    dry_run(recipe_of(options, tmp_path / "out", top_k=64), Console(file=shown, width=150))
    assert "6 problems, 6 samples each: 36 samples" in shown.getvalue()
    assert "0 done, 36 to draw by transformers\nat most 10,800 tokens" in shown.getvalue()
    assert "top-k: 280 bytes a token" in shown.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_top_k_lies_beside_every_trace(
    undisturbed: list[Record], options: dict[str, Any], copied: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    out = copied
    records, _ = run(options, out, keep_wrong=True, top_k=64, data_parallel=2)
    assert_same(records, undisturbed)
    parts = sorted((out / "topk").iterdir())
    assert len(parts) == 2  # 32 traces and 4
    tokens = sum(len(record.completion_ids) for record in records)
    assert sum(path.stat().st_size for path in parts) / tokens <= 300
    model = AutoModelForCausalLM.from_pretrained(options["teacher"], dtype=torch.float32).eval()
    for record in (records[0], records[17], records[35]):
        assert record.topk is not None
        with torch.inference_mode():
            whole = torch.tensor([record.prompt_ids + record.completion_ids])
            logits = model(whole).logits[0, len(record.prompt_ids) - 1 : -1].double()
        for temperature in (1.0, 2.0):
            row = TopKReader(out / record.topk.file).row(record.topk.row, temperature)
            expected = torch.log_softmax(logits / temperature, -1).gather(-1, torch.from_numpy(row.ids))
            assert row.logprobs.shape == (len(record.completion_ids), 64)
            torch.testing.assert_close(torch.from_numpy(row.logprobs).double(), expected, atol=6e-4, rtol=0)
    # A damaged part and another temperature are made again, from the same samples.
    stamp = parts[1].stat().st_mtime_ns
    parts[0].write_bytes(parts[0].read_bytes()[:-1])
    again, shown = run(options, out, keep_wrong=True, top_k=64)
    assert "top-k: 1 of 2 parts stand" in shown
    assert again == records
    assert parts[1].stat().st_mtime_ns == stamp
    more, shown = run(options, out, top_k=64, top_k_temperatures=[1, 2, 4])
    assert "samples done" not in shown
    assert more[0].topk is not None
    TopKReader(out / more[0].topk.file).row(more[0].topk.row, 4.0)
    assert len(list((out / "topk").iterdir())) == -(-len(more) // 32)


def test_a_worker_that_fails_is_told_and_nothing_is_left(options: dict[str, Any], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    make_teacher(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(WorkerError, match=r"worker 0 ended with code 1: .*worker-000\.log"):
        run({**options, "teacher": broken}, tmp_path / "out")
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "kit.traces.worker" in " ".join(child.cmdline())]


def test_two_runs_in_one_folder_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(options, out, "--set", "engine.max_num_seqs=1")
    try:
        wait_until((out / "run.json").exists)
        with pytest.raises(ValueError, match="another run is writing"):
            run(options, out)
    finally:
        process.kill()
        process.communicate()


def test_vllm_draws_the_same_whether_killed_or_not(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    engine = {"kind": "vllm", "max_num_seqs": 4, "cpu_kv_cache_gib": 1}
    settings = {**options, "engine": engine, "samples": 3}
    whole, _ = run(settings, tmp_path / "whole", keep_wrong=True)
    assert len(whole) == 18 and any(record.correct for record in whole)
    # The end token is part of the trace, as the teacher sampled it.
    assert len({record.completion_ids[-1] for record in whole if record.correct}) == 1
    out = tmp_path / "killed"
    limits = ("--set", "engine.max_num_seqs=4", "--set", "engine.cpu_kv_cache_gib=1")
    process = start(settings, out, "--keep-wrong", *limits)
    wait_until(lambda: journal_lines(out) >= 5)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert 5 <= journal_lines(out) < 18
    records, _ = run(settings, out, keep_wrong=True)
    assert_same(records, whole)
    for path in out.glob("journal-*.jsonl"):
        assert all(parse_line(raw) for raw in path.open("rb"))


def test_seeds_depend_on_the_sample_alone() -> None:
    seeds = {
        sample_seed(run, problem, attempt) for run in (0, 1) for problem in "ab" for attempt in range(50)
    }
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(0, "a", 1) == sample_seed(0, "a", 1)

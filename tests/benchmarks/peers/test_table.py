"""The one table, from figures worked out by hand."""

from dataclasses import asdict

import pytest

from benchmarks.peers.comparisons import COMPARISONS, Row
from benchmarks.peers.table import HEADINGS, failures, peers_section


def row_of(name: str, figures: dict[str, object]) -> list[Row]:
    return list(COMPARISONS[name].rows(figures))


def test_the_checkers_rows() -> None:
    corpus = {
        "corpus": "boxed integers",
        "pairs": 4,
        "equal": 2,
        "ours": {"right": 2, "false": 0, "microseconds": 10.0},
        "math_verify": {"right": 1, "false": 1, "microseconds": 150.0},
        "differ": 2,
        "ratios": [12.0, 19.0],
    }
    found = row_of("math_verify", {"corpora": [corpus, {**corpus, "corpus": "GSM8K"}]})
    assert (found[0].ratio, found[0].least, found[0].most) == (15.0, 12.0, 19.0)
    assert found[0].same == "2 of 4 verdicts differ; right 2, 1 of 2; false 0, 1"
    # Only the contest's own case has an aim, and this one is under it.
    assert [(row.aim, row.met) for row in found] == [("20", False), ("", True)]


def test_the_trainers_row() -> None:
    side = {
        "completions_per_second": {"median": 30.0},
        "other_prompts": 0,
        "other_rewards": 3,
        "gradient_gap": 2e-6,
    }
    model = {
        "sides": {"ours": {"completions_per_second": {"median": 60.0}}, "256": side},
        "peer": "256",
        "ratio": {"median": 2.0},
        "ratios": [1.9, 2.0, 2.5],
        "rounds": 3,
        "batch_size": 4,
        "group_size": 8,
        "warm_up": 1,
        "steps": 2,
    }
    (row,) = row_of("trl", {"models": {"small": model}})
    assert (row.ours, row.peer, row.least, row.most, row.met) == ("60.0", "30.0", 1.9, 2.5, True)
    # Three rounds of three steps of four prompts, eight completions each.
    told = "0 of 36 prompts and 3 of 288 rewards differ; first gradient's norm within 2e-06"
    assert row.same == told
    side["gradient_gap"] = 0.01
    assert not row_of("trl", {"models": {"small": model}})[0].met


def test_ratios_of_times_are_inverted() -> None:
    figures = {
        "contest_seconds": 21.0,
        "contest_tokens": 1000,
        "bare_seconds": 20.0,
        "bare_tokens": 1000,
        "ratio": 1.05,
        "ratios": [1.25, 0.8],
        "same_tokens": 2,
        "problems": 2,
    }
    (row,) = row_of("vllm", figures)
    assert (row.ours, row.peer, row.aim, row.met) == ("21.00", "20.00", "0.95", True)
    assert (row.ratio, row.least, row.most) == pytest.approx((1 / 1.05, 0.8, 1.25))
    assert not row_of("vllm", figures | {"ratio": 1.06})[0].met


def test_the_packagers_rows() -> None:
    seconds = {
        "cp -r": [1.0],
        "sha256sum of the copy": [3.0],
        "build": [5.0],
        "sha256sum of the bundle": [4.0],
        "verify": [2.0],
    }
    ratios = [
        {"name": "build / (cp -r + sha256sum)", "ratio": 1.25, "limit": 1.5, "each": [1.25]},
        {"name": "verify / sha256sum on one core", "ratio": 0.8, "limit": 0.6, "each": [0.8]},
    ]
    build, verify = row_of("coreutils", {"gigabytes": 2.0, "seconds": seconds, "ratios": ratios})
    assert (build.ours, build.peer, build.ratio, build.aim, build.met) == ("5.00", "4.00", 0.8, "0.67", True)
    assert (verify.ours, verify.peer, verify.ratio, verify.met) == ("2.00", "4.00", 1.25, False)


def test_scores_that_differ_miss_the_aim_however_fast_they_are() -> None:
    case = {"ours": 9.0, "card": 1.0, "ratio": 9.0, "ratios": [9.0], "gap": 2e-5}
    (row,) = row_of("transformers", {"cases": {"roll-outs": case}})
    assert row.same == "scores within 2e-05, over 1e-05"
    assert not row.met


def test_the_sandboxs_aims_are_our_own_times() -> None:
    figures = {
        "warm": {"ours": {"p50": 1.0}, "kernel": {"p50": 6.0}},
        "fresh": {"ours": {"p50": 41.0}, "kernel": {"p50": 820.0}},
        "ratios": {"warm": [5.0, 7.0], "fresh": [20.0]},
    }
    warm, fresh = row_of("jupyter", figures)
    assert (warm.ratio, warm.aim, warm.met) == (6.0, "ours 5 ms", True)
    assert (fresh.ratio, fresh.aim, fresh.met) == (20.0, "ours 40 ms", False)


def test_a_failed_peer_is_told_and_the_others_stay() -> None:
    row = Row("contest (ms a token)", "21", "20", 0.95, 0.8, 1.25, "all tokens", aim="0.97", met=False)
    good = {"title": "vLLM", "versions": {"vllm": "0.32.0"}, "rows": [asdict(row)], "error": ""}
    bad = {"title": "TRL", "versions": {}, "rows": [], "error": "pip ended with code 1:\nno route to host"}
    figures = {"peers": {"trl": bad, "vllm": good}}
    lines = peers_section(figures)
    cells = "| vLLM (vllm 0.32.0) | contest (ms a token) | 21 | 20 | 0.95 | 0.80 to 1.25 | 0.97 missed "
    assert cells + "| all tokens |" in lines
    assert lines[-1] == "- trl: not measured: pip ended with code 1:"
    assert failures(figures) == ["trl: not measured: pip ended with code 1:\nno route to host"]
    # A half-measured peer keeps its rows.
    half = failures({"peers": {"vllm": good | {"error": "killed"}}})
    assert half == ["vllm: not measured to the end: killed"]
    header = lines.index("| " + " | ".join(heading.capitalize() for heading in HEADINGS) + " |")
    assert len(lines[header].split("|")) == len(lines[header + 1].split("|"))

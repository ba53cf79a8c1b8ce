"""The run's files: samples.parquet, answers.csv, results.json, environment.json; each whole or not at all.

samples.parquet has the columns of recorded attempts elsewhere (`problem_id`, `answer`, `isCorrect`, `time`,
`total_tokens`, `solution`), so that it can be replayed (`engine.kind = "replay"`), calibrated on
(`kit.attempts`) and simulated like any recording.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.run.outcomes import Outcome
from submission.files import write_bytes, write_text
from submission.prm.aggregate import Aggregate, aggregate

SAMPLES, ANSWERS, RESULTS, ENVIRONMENT = "samples.parquet", "answers.csv", "results.json", "environment.json"


def sample_rows(outcomes: Sequence[Outcome], how: Aggregate) -> Iterator[dict[str, Any]]:
    """One row a sample; `how` makes one score of the steps'."""
    for one in outcomes:
        for drawn, verdict in zip(one.samples, one.verdicts, strict=True):
            line, score = drawn.line, aggregate(drawn.steps, how)
            yield {
                "set": one.set,
                "repeat": one.repeat,
                "problem_id": one.item.id,
                "attempt": drawn.attempt,
                "role": line.role,
                "answer": verdict.answer,
                "ground_truth": one.item.gold.text,
                "isCorrect": verdict.right,
                "total_tokens": line.tokens,
                "tool_tokens": line.tool_tokens,
                "tool_calls": len(line.calls),
                "time": line.seconds,
                "ended_at": drawn.ended_at,
                "finish": line.finish,
                "logprob": line.logprob,
                "score": score if math.isfinite(score) else None,
                "steps": list(drawn.steps),
                # Model text may hold lone surrogates, which no table takes.
                "solution": line.text.encode("utf-8", "replace").decode("utf-8"),
            }


def answer_rows(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """One row a problem and repeat."""
    for one in outcomes:
        yield {
            "set": one.set,
            "repeat": one.repeat,
            "id": one.item.id,
            "answer": one.answer,
            "gold": one.item.gold.text,
            "right": one.right,
            "plain_right": one.plain_right,
            "source": one.source,
            "samples": len(one.samples),
            "tokens": one.tokens,
            "seconds": one.seconds,
            "answered": one.answered,
            "stopped": one.stopped,
        }


def write_tables(
    out: Path,
    outcomes: Sequence[Outcome],
    results: Mapping[str, Any],
    environment: Mapping[str, Any],
    how: Aggregate = "min",
) -> None:
    """Write all of it into the run's folder.

    Raises:
        ValueError: the folder cannot be written to; the contests' journals keep all that was played.
    """
    import polars as pl

    schema: dict[str, Any] = {
        "set": pl.String,
        "repeat": pl.Int32,
        "problem_id": pl.String,
        "attempt": pl.Int32,
        "role": pl.String,
        "answer": pl.String,
        "ground_truth": pl.String,
        "isCorrect": pl.Boolean,
        "total_tokens": pl.Int64,
        "tool_tokens": pl.Int64,
        "tool_calls": pl.Int32,
        "time": pl.Float64,
        "ended_at": pl.Float64,
        "finish": pl.String,
        "logprob": pl.Float64,
        "score": pl.Float64,
        "steps": pl.List(pl.Float64),
        "solution": pl.String,
    }
    samples, answers = io.BytesIO(), io.BytesIO()
    pl.DataFrame(list(sample_rows(outcomes, how)), schema=schema, orient="row").write_parquet(samples)
    pl.DataFrame(list(answer_rows(outcomes)), infer_schema_length=None).write_csv(answers)
    try:
        write_bytes(out / SAMPLES, samples.getvalue())
        write_bytes(out / ANSWERS, answers.getvalue())
        write_text(out / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
        write_text(out / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ValueError(
            f"{out} cannot be written: {error.strerror or error}; make room and run the same command again: "
            "what was played is kept"
        ) from None

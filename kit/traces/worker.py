"""One engine process of a trace run: draws the samples of its share and journals each as it ends.

    python -m kit.traces.worker FOLDER NUMBER generate|topk

FOLDER/work holds the recipe and the shares. A worker is the leader of a process group: told to end, or
orphaned, it kills the whole group at once, engine included. What it journalled stays.
"""

import asyncio
import ctypes
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from kit.traces.journal import SampleLine, SampleWriter
from kit.traces.recipe import TraceRecipe
from submission.answers import check, extract, parse_gold
from submission.engines import Engine, make_engine
from submission.engines.base import EngineError, SampleRequest, Sampling
from submission.parsing.symbolic import SymbolicChecker

PARENT = "AIMO_TRACES_PARENT"
PR_SET_PDEATHSIG = 1
TRIES = 3
"""Times that a sample is asked for before the worker gives up: an engine that fails thrice is broken."""


@dataclass(frozen=True)
class Job:
    """One sample to draw."""

    problem: str
    attempt: int
    prompt: list[int]
    max_tokens: int
    gold: str
    opening: str


def sample_seed(seed: int, problem: str, attempt: int) -> int:
    """63 bits that depend on run seed, problem and attempt alone: not on order, share or what ran before."""
    digest = hashlib.sha256(f"{seed}/{problem}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def read_share(path: Path) -> Iterator[Job]:
    """The jobs of one worker, a problem's attempts side by side so that they share its prefix cache."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            data = json.loads(line)
            for attempt in data.pop("attempts"):
                yield Job(attempt=attempt, **data)


async def generate_share(recipe: TraceRecipe, share: Path, journal: Path) -> None:
    """Draw, verify and journal every job of a share."""
    engine = make_engine(recipe.engine, recipe.teacher)
    jobs = read_share(share)
    writer = SampleWriter(journal)
    with SymbolicChecker(timeout=recipe.check_seconds) as checker:
        try:
            await engine.start()

            async def drain() -> None:
                for job in jobs:
                    writer.write(await draw_sample(engine, job, recipe, checker))

            # Twice what the engine batches: it never waits for the next request.
            async with asyncio.TaskGroup() as group:
                for _ in range(2 * recipe.engine.max_num_seqs):
                    group.create_task(drain())
        finally:
            writer.close()
            await engine.close()


async def draw_sample(engine: Engine, job: Job, recipe: TraceRecipe, checker: SymbolicChecker) -> SampleLine:
    """Draw and verify one sample, asking again where the engine loses it. EngineError after `TRIES`."""
    for trial in range(1, TRIES + 1):
        try:
            return await _draw(engine, job, recipe, checker)
        except EngineError:
            if trial == TRIES:
                raise
            await asyncio.sleep(1.0)
    raise AssertionError("unreachable")


async def _draw(engine: Engine, job: Job, recipe: TraceRecipe, checker: SymbolicChecker) -> SampleLine:
    begun = time.monotonic()
    request = SampleRequest(
        request_id=f"{job.problem}-{job.attempt}-{time.monotonic_ns():x}",
        prompt=job.prompt,
        sampling=Sampling(
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            min_p=recipe.min_p,
            max_tokens=job.max_tokens,
            seed=sample_seed(recipe.seed, job.problem, job.attempt),
        ),
        problem=job.problem,
        attempt=job.attempt,
    )
    pieces: list[str] = []
    ids: list[int] = []
    total, finish = 0.0, None
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            pieces.append(chunk.text)
            ids += chunk.token_ids
            total += sum(chunk.logprobs)
            finish = chunk.finish_reason or finish
    if finish is None or not ids:
        raise EngineError(f"sample {job.attempt} of problem {job.problem} ended without a finish reason")
    # No lone surrogates: neither UTF-8 nor a record takes them.
    text = job.opening + "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    found = extract(text, last_number=recipe.last_number)
    right = False
    if finish == "stop":
        # In a thread: a symbolic comparison takes up to `check_seconds`, and the engine's streams go on.
        right = await asyncio.to_thread(
            check, text, parse_gold(job.gold), checker, last_number=recipe.last_number
        )
    return SampleLine(
        problem=job.problem,
        attempt=job.attempt,
        correct=right,
        finish=finish,
        answer=found.text[:2_000] if found else "",
        gold=job.gold,
        # Rounded: the last digits depend on what else was in the batch.
        logprob=round(total / len(ids), 5),
        seconds=round(time.monotonic() - begun, 3),
        text=text,
        ids=ids,
    )


def _end_with_group(*_: object) -> None:
    """Kill everything this worker started and itself: the journal needs no farewell."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def tie_to_parent() -> None:
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _end_with_group)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # It may have ended before the line above took hold.
        if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
            sys.exit("the parent process is gone")


def main(folder: Path, number: int, kind: str) -> None:
    """Run one worker to the end of its share."""
    tie_to_parent()
    work = folder / "work"
    recipe = TraceRecipe.model_validate_json((work / "recipe.json").read_text(encoding="utf-8"))
    if kind == "generate":
        share = work / f"share-{number:03d}.jsonl"
        asyncio.run(generate_share(recipe, share, folder / f"journal-{number:03d}.jsonl"))
        return
    from kit.traces.teacher_pass import make_parts

    make_parts(recipe, folder, number, recipe.data_parallel)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    except Exception as fault:  # noqa: BLE001 - the last line of the log is what the parent shows
        traceback.print_exc()
        while isinstance(fault, ExceptionGroup):
            fault = fault.exceptions[0]
        sys.exit(f"{type(fault).__name__}: {fault}".replace("\n", " "))

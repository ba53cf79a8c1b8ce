"""A trace run from beginning to end: problems, samples, choice, log-probabilities. Killed, it goes on."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kit.data.records import write_records
from kit.data.refused import describe_refused
from kit.data.tasks import Task, Tasks
from kit.traces.assemble import Counts, assemble, print_summary, write_summary
from kit.traces.journal import SampleIndex
from kit.traces.problems import load_tasks
from kit.traces.processes import run_workers
from kit.traces.progress import SampleProgress
from kit.traces.recipe import TraceRecipe, claim, identity, resolved
from kit.traces.teacher_pass import (
    FOLDER,
    TRACES,
    header_of,
    is_done,
    part_path,
    parts_of,
    vocabulary_of,
    with_top_k,
)
from kit.traces.topk import TopKHeader
from submission.files import atomic_writer, write_text


@dataclass(frozen=True)
class Plan:
    """What a run still has to draw."""

    tasks: Tasks
    index: SampleIndex
    missing: list[tuple[Task, list[int]]]
    """Problems with attempts that are not in the journals."""
    total: int

    @property
    def left(self) -> int:
        """Samples still to draw."""
        return sum(len(attempts) for _, attempts in self.missing)


def make_plan(recipe: TraceRecipe) -> Plan:
    """Read problems and journals. ValueError where either cannot be used."""
    found = load_tasks(recipe)
    golds = {task.record.problem_id: task.record.answer for task in found.tasks}
    index = SampleIndex.read(_journals(recipe.out), golds)
    missing = []
    for task in found.tasks:
        held = index.of(task.record.problem_id, recipe.samples)
        attempts = [attempt for attempt in range(recipe.samples) if attempt not in held]
        if attempts:
            missing.append((task, attempts))
    return Plan(found, index, missing, len(found.tasks) * recipe.samples)


def dry_run(recipe: TraceRecipe, console: Console) -> None:
    """Print what a run would do; nothing is written, no model is loaded."""
    recipe = resolved(recipe)
    claim(recipe.out, identity(recipe), write=False)
    plan = make_plan(recipe)
    describe_refused(plan.tasks, console)
    prompt = sum(len(task.prompt) * len(attempts) for task, attempts in plan.missing)
    most = sum(task.max_tokens * len(attempts) for task, attempts in plan.missing)
    console.print(f"{len(plan.tasks.tasks)} problems, {recipe.samples} samples each: {plan.total} samples")
    console.print(f"{plan.total - plan.left} done, {plan.left} to draw by {recipe.engine.kind}")
    console.print(f"at most {most:,} tokens to draw, after {prompt:,} of prompts")
    # Ids and text as JSON.
    console.print(f"journals: about {most * 11 / 1e9:.3g} GB if every sample is as long as it may be")
    if recipe.top_k:
        entry = _entry_bytes(recipe)
        kept = len(plan.tasks.tasks) * min(recipe.kept or recipe.samples, recipe.samples)
        console.print(
            f"top-k: {entry} bytes a token, at most {entry * kept * recipe.max_tokens / 1e9:.3g} GB"
        )


def _entry_bytes(recipe: TraceRecipe) -> int:
    header = TopKHeader(
        vocab_size=1 << 18,
        k=recipe.top_k,
        temperatures=recipe.top_k_temperatures,
        tokenizer="0" * 64,
        teacher="",
    )
    return header.entry_bytes


def run_traces(recipe: TraceRecipe, console: Console) -> Counts:
    """Draw what is missing, choose, score, and write `traces.jsonl` and `summary.json` into `recipe.out`.

    Time: tokens to draw over the engine's speed, then a forward pass over the kept ones for top-k. Memory
    here: the problems and 300 bytes a sample. Disk: about 11 bytes a token in the journals and again in the
    traces, and `TopKHeader.entry_bytes` a kept token for top-k.

    Raises:
        ValueError: the user's mistake, found before a model is loaded.
        WorkerError: an engine process failed; the same command goes on from there.
    """
    recipe = resolved(recipe)
    with only_one(recipe.out):
        claim(recipe.out, identity(recipe))
        plan = make_plan(recipe)
        describe_refused(plan.tasks, console)
        if plan.index.damaged:
            console.print(f"{plan.index.damaged} journal lines were cut off or damaged; drawn again")
        if plan.left:
            _draw(recipe, plan, console)
            plan = make_plan(recipe)
            assert not plan.left, f"{plan.left} samples are missing after every worker ended well"
        counts = Counts(refused=plan.tasks.refused.total())
        written = assemble(plan.tasks.tasks, plan.index, recipe, counts)
        write_records(recipe.out / TRACES, written)
        write_summary(recipe.out / "summary.json", counts, dict(plan.tasks.refused))
        print_summary(counts, console)
        if recipe.top_k:
            _score(recipe, console)
    console.print(f"traces  {recipe.out / TRACES}", markup=False)
    return counts


def _draw(recipe: TraceRecipe, plan: Plan, console: Console) -> None:
    count = min(recipe.data_parallel, len(plan.missing))
    write_text(recipe.out / "work" / "recipe.json", recipe.model_dump_json())
    for number in range(count):
        with atomic_writer(recipe.out / "work" / f"share-{number:03d}.jsonl") as file:
            for task, attempts in plan.missing[number::count]:
                job = {
                    "problem": task.record.problem_id,
                    "gold": task.record.answer,
                    "prompt": list(task.prompt),
                    "max_tokens": task.max_tokens,
                    "opening": task.opening,
                    "attempts": attempts,
                }
                file.write(json.dumps(job).encode("ascii") + b"\n")
    journals = [recipe.out / f"journal-{number:03d}.jsonl" for number in range(count)]
    done = plan.total - plan.left
    console.print(f"{done} of {plan.total} samples done; {recipe.engine.kind} draws {plan.left}")
    with SampleProgress(journals, done, plan.total, console) as progress:
        run_workers(recipe, recipe.out, count, progress.update, arguments=["generate"])


def _score(recipe: TraceRecipe, console: Console) -> None:
    out = recipe.out
    (out / FOLDER).mkdir(exist_ok=True)
    for stray in (out / FOLDER).glob(".*.tmp"):  # of a killed worker
        stray.unlink()
    vocabulary = vocabulary_of(recipe.teacher)
    wanted = {part_path(out, part): header_of(recipe, vocabulary, group) for part, group in parts_of(out)}
    missing = [path for path, header in wanted.items() if not is_done(path, header)]
    if missing:
        for path in missing:
            path.unlink(missing_ok=True)
        count = min(recipe.data_parallel, len(wanted))
        shared = recipe.model_copy(update={"data_parallel": count})
        write_text(out / "work" / "recipe.json", shared.model_dump_json())
        console.print(f"top-k: {len(wanted) - len(missing)} of {len(wanted)} parts stand")
        counted = [len(wanted) - len(missing)]

        def tick() -> None:
            stand = sum(path.exists() for path in wanted)
            if stand > counted[0]:
                counted[0] = stand
                console.print(f"top-k: {stand} of {len(wanted)} parts stand")

        run_workers(shared, out, count, tick, arguments=["topk"])
    for path in (out / FOLDER).glob("part-*.topk"):
        if path not in wanted:
            path.unlink()
    write_records(out / TRACES, with_top_k(out))
    tokens = sum(path.stat().st_size for path in wanted)
    console.print(f"top-k: {tokens / 1e6:.1f} MB in {len(wanted)} parts")


def _journals(out: Path) -> list[Path]:
    return sorted(out.glob("journal-*.jsonl"))


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Two runs in one folder would draw the same samples twice: the second one is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise ValueError(f"--out {out}: cannot write there: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing to {out}: wait for it, or give another --out") from None
        yield

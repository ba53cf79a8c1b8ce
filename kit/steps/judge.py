"""The judge's pass over step records: one completion each, drawn and journalled as a trace run; the filter.

Time: one completion a record. Disk: a trace run's, in the folder `judge` of the result.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from kit.data.records import Record, write_records
from kit.steps.consensus import JudgePrompt, disagreement, parse_verdict
from kit.steps.records import CARD, RECORDS, Audit, StepCard, StepRecord, read_steps, write_steps
from kit.traces.journal import SampleIndex, load
from kit.traces.recipe import TraceRecipe, claim, fingerprint, resolved, teacher_name
from kit.traces.run import only_one, run_traces
from submission.recipes import Recipe
from submission.settings import EngineSettings

REFUSED = "judge cannot be asked"
"""Its prompt leaves no room in the context, or a text of the record holds one of its control tokens."""
KEPT = "judge agrees"


class JudgeRecipe(Recipe):
    """A judge, labelled traces, and how it is asked."""

    judge: Path
    """Folder of the judge's checkpoint."""
    steps: Path
    """Folder of a finished step-label run, or a file of step records."""
    out: Path = Path("runs/steps-agreed")
    prompt: Path | None = None
    """TOML file with the texts `system` and `user`; by default kit/recipes/steps_judge.toml."""
    max_tokens: int = Field(default=8_192, ge=1)
    """Of a judge's completion."""
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    data_parallel: int = Field(default=1, ge=1)
    engine: EngineSettings = EngineSettings()

    @property
    def file(self) -> Path:
        """The step records."""
        return self.steps / RECORDS if self.steps.is_dir() else self.steps


def run_consensus(recipe: JudgeRecipe, console: Console) -> StepCard:
    """Ask the judge about every record that it was not asked about, and write those it agrees with.

    `recipe.out` gets `steps.jsonl` and `card.json`, whose `dropped` says how many were left out and why.

    Raises:
        ValueError: the user's mistake, found before a model is loaded, or not one record is agreed upon.
        WorkerError: an engine process failed; the same command goes on from there.
    """
    prompt = JudgePrompt.load(recipe.prompt) if recipe.prompt else JudgePrompt.load()
    records = list(read_steps(recipe.file))
    if not records:
        raise ValueError(f"{recipe.file} holds no step record to judge")
    out = recipe.out.resolve()
    asked = {record.id: ask(record, prompt) for record in records}
    questions = out / "work" / "questions.jsonl"
    tracing = _tracing(recipe, prompt, questions)
    tracing = resolved(tracing)
    with only_one(out):
        claim(out, _identity(recipe, prompt, tracing))
        # Two traces with the same steps are one question.
        write_records(questions, {question.problem: question for question in asked.values()}.values())
        run_traces(tracing, console)
        verdicts = read_verdicts(tracing, asked, records)
        counts = Counter(disagreement(record, verdicts[record.id]) or KEPT for record in records)
        kept = (record for record in records if not disagreement(record, verdicts[record.id]))
        card = _write(recipe, tracing, kept, counts)
    for reason, count in counts.most_common():
        console.print(f"{reason}: {count}")
    console.print(f"step labels  {out / RECORDS}", markup=False)
    return card


def ask(record: StepRecord, prompt: JudgePrompt) -> Record:
    """The question as a problem of a trace run, its gold answer the roll-outs' first error."""
    return Record(problem=prompt.render(record), answer=str(record.first_error))


def read_verdicts(
    tracing: TraceRecipe, asked: dict[str, Record], records: list[StepRecord]
) -> dict[str, int | str]:
    """Of each record: the judge's first error, or why there is none."""
    golds = {question.problem_id: question.answer for question in asked.values()}
    index = SampleIndex.read(sorted(tracing.out.glob("journal-*.jsonl")), golds)
    verdicts: dict[str, int | str] = {}
    for record in records:
        entries = index.of(asked[record.id].problem_id, 1)
        if not entries:
            verdicts[record.id] = REFUSED
            continue
        line = load(entries[0])
        verdicts[record.id] = parse_verdict(line.text, line.finish, len(record.steps))
    return verdicts


def _tracing(recipe: JudgeRecipe, prompt: JudgePrompt, questions: Path) -> TraceRecipe:
    return TraceRecipe(
        teacher=recipe.judge,
        dataset=str(questions),
        out=questions.parent.parent / "judge",
        samples=1,
        seed=recipe.seed,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        max_tokens=recipe.max_tokens,
        system_prompt=prompt.system,
        keep_wrong=True,
        data_parallel=recipe.data_parallel,
        engine=recipe.engine,
    )


def _identity(recipe: JudgeRecipe, prompt: JudgePrompt, tracing: TraceRecipe) -> dict[str, Any]:
    return {
        "kind": "consensus",
        "judge": teacher_name(tracing.teacher),
        "judge_files": fingerprint(tracing.teacher),
        "prompt": [prompt.system, prompt.user],
        **{name: getattr(recipe, name) for name in ("max_tokens", "temperature", "top_p", "seed")},
    }


def _write(
    recipe: JudgeRecipe, tracing: TraceRecipe, kept: Iterator[StepRecord], counts: Counter[str]
) -> StepCard:
    before = recipe.file.with_name(CARD)
    card = StepCard.model_validate_json(before.read_text(encoding="utf-8")) if before.exists() else None
    judging = {
        "judge": teacher_name(tracing.teacher),
        **{name: getattr(recipe, name) for name in ("max_tokens", "temperature", "top_p", "seed")},
    }
    return write_steps(
        recipe.out.resolve(),
        kept,
        settings={**(card.settings if card else {}), "consensus": judging},
        dropped={
            **(card.dropped if card else {}),
            **{reason: count for reason, count in sorted(counts.items()) if reason != KEPT},
        },
        drawn={
            "rollouts_cut": card.rollouts_cut if card else 0,
            "rollout_tokens": card.rollout_tokens if card else 0,
        },
        audit=card.audit if card else Audit(),
    )

"""One engine process of a step-label run: rolls out the prefixes of its traces, round by round.

    python -m kit.steps.worker FOLDER NUMBER

FOLDER/work holds the recipe and the traces. Each finished roll-out is journalled at once. Between rounds a
worker waits until the journals of all workers hold the round; then it fits the next rules from them, as
every other one does.
"""

import asyncio
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from kit.steps.labels import Ask
from kit.steps.outcomes import Outcomes
from kit.steps.prefixes import Trace, TraceFile
from kit.steps.recipe import StepsRecipe
from kit.steps.replay import Replay, replay
from kit.steps.rounds import Policy, RoundRules
from kit.traces.journal import SampleWriter
from kit.traces.recipe import TraceRecipe
from kit.traces.worker import Job, draw_sample, tie_to_parent
from submission.engines import Engine, make_engine
from submission.parsing.symbolic import SymbolicChecker

POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Share:
    """What one worker works on and with.

    Args:
        traces: of the whole run.
        number, count: this worker takes every `count`-th trace of a round, from `number` on.
        policy: how it is decided.
        outcomes: of all workers' journals.
        sampling: for the engine.
    """

    traces: TraceFile
    number: int
    count: int
    policy: Policy
    outcomes: Outcomes
    sampling: TraceRecipe


async def roll_out(share: Share, engine: Engine, journal: Path) -> None:
    """Draw and journal what the worker's share of every round still wants."""
    writer = SampleWriter(journal)
    rounds = share.policy.rounds(share.traces.outlines)
    with SymbolicChecker(timeout=share.sampling.check_seconds) as checker:
        try:
            await engine.start()
            found = _standing(share, None)
            while found.open_round is not None:
                mine = list(rounds[found.open_round][share.number :: share.count])
                await _round(share, engine, writer, checker, mine, found.rules)
                found = await _next_round(share, found)
        finally:
            writer.close()
            await engine.close()


def _standing(share: Share, before: Replay | None) -> Replay:
    share.outcomes.update()
    return replay(share.policy, share.traces.outlines, share.outcomes, before)


async def _next_round(share: Share, found: Replay) -> Replay:
    """Wait for the other workers' part of a round."""
    number = found.open_round
    # Other processes write them: there is no event to wait for.
    while (found := _standing(share, found)).open_round == number:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    return found


async def _round(
    share: Share,
    engine: Engine,
    writer: SampleWriter,
    checker: SymbolicChecker,
    indices: list[int],
    rules: RoundRules,
) -> None:
    waiting = iter(indices)

    async def drain() -> None:
        for index in waiting:
            await _trace(share, engine, writer, checker, index, rules)

    # A trace has at least a wave of roll-outs in the engine: so many traces keep its batch full.
    wave = share.policy.design.wave
    async with asyncio.TaskGroup() as group:
        for _ in range(1 + 2 * share.sampling.engine.max_num_seqs // wave):
            group.create_task(drain())


async def _trace(
    share: Share,
    engine: Engine,
    writer: SampleWriter,
    checker: SymbolicChecker,
    index: int,
    rules: RoundRules,
) -> None:
    """One trace to its end: its own outcomes are what it asks for next."""
    outline = share.traces.outlines[index]
    trace: Trace | None = None
    own = {key: dict(share.outcomes.of(key)) for key in outline.keys}
    while isinstance(ask := rules.label(outline, own.__getitem__, share.policy.search), Ask):
        trace = trace or share.traces[index]
        key = outline.keys[ask.step]

        async def one(job: Job) -> None:
            line = await draw_sample(engine, job, share.sampling, checker)
            # The text is the prefix over again, and its ids hold the rest.
            writer.write(line.model_copy(update={"text": ""}))
            own[job.problem][job.attempt] = line.correct

        prompt = trace.prefix(ask.step)
        async with asyncio.TaskGroup() as group:
            for number in ask.rollouts:
                if number not in own[key]:
                    group.create_task(one(_job(trace, ask.step, key, number, prompt, share.sampling, engine)))


def _job(
    trace: Trace, step: int, key: str, number: int, prompt: list[int], sampling: TraceRecipe, engine: Engine
) -> Job:
    return Job(
        problem=key,
        attempt=number,
        prompt=prompt,
        max_tokens=min(sampling.max_tokens, engine.max_context - len(prompt)),
        gold=trace.record.answer,
        # Part of the text that the answer is looked for in.
        opening="".join(trace.pieces[: step + 1]),
    )


def main(folder: Path, number: int) -> None:
    """Run one worker to the end of its share."""
    tie_to_parent()
    work = folder / "work"
    recipe = StepsRecipe.model_validate_json((work / "recipe.json").read_text(encoding="utf-8"))
    sampling = recipe.sampling()
    share = Share(
        TraceFile(work / "traces.jsonl"),
        number,
        recipe.data_parallel,
        recipe.policy(),
        Outcomes(folder),
        sampling,
    )
    engine = make_engine(recipe.engine, recipe.model)
    asyncio.run(roll_out(share, engine, folder / f"journal-{number:03d}.jsonl"))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except Exception as fault:  # noqa: BLE001 - the last line of the log is what the parent shows
        traceback.print_exc()
        while isinstance(fault, ExceptionGroup):
            fault = fault.exceptions[0]
        sys.exit(f"{type(fault).__name__}: {fault}".replace("\n", " "))

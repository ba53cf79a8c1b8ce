"""A step-label run from beginning to end: traces, roll-outs, records, card. Killed, it goes on."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from kit.data.refused import describe_refused
from kit.steps.labels import StepLabel, bisection_tests, first_error
from kit.steps.outcomes import Outcomes
from kit.steps.prefixes import Trace, Traces, make_traces, outlines, write_traces
from kit.steps.progress import StepProgress
from kit.steps.recipe import StepsRecipe, identity, resolve
from kit.steps.records import Audit, StepCard, StepRecord, write_steps
from kit.steps.replay import Replay, replay
from kit.steps.rounds import Outline, RoundRules
from kit.traces.problems import asking_of, load_rows
from kit.traces.processes import run_workers
from kit.traces.recipe import claim, teacher_name
from kit.traces.run import only_one
from submission.engines.tokenizer import context_length
from submission.files import write_text
from submission.parsing.symbolic import SymbolicChecker


@dataclass(frozen=True)
class Plan:
    """What a run has and still has to draw."""

    found: Traces
    outlines: list[Outline]
    outcomes: Outcomes
    standing: Replay


def make_plan(recipe: StepsRecipe) -> Plan:
    """Read traces and journals. ValueError where either cannot be used."""
    found = load_traces(recipe)
    made = outlines(found.traces)
    outcomes = Outcomes(recipe.out)
    outcomes.update()
    return Plan(found, made, outcomes, replay(recipe.policy(), made, outcomes))


def load_traces(recipe: StepsRecipe) -> Traces:
    """Read, check, cut and tokenize the traces.

    Raises:
        ValueError: the set cannot be read, or none of its rows can be used.
    """
    asked = recipe.sampling()
    with SymbolicChecker(timeout=recipe.check_seconds) as checker:
        found = load_rows(
            asked, lambda records, tokenizer: make_traces(records, asking_of(asked), tokenizer, checker)
        )
    if not found.traces:
        raise found.nothing_left(recipe.traces, "trace to label")
    return found


def run_steps(recipe: StepsRecipe, console: Console) -> StepCard:
    """Draw what is missing, then write `steps.jsonl` and `card.json` into `recipe.out`.

    Time: roll-outs times their tokens over the engine's speed; each prefix is read once, since prefixes of
    a trace extend each other in the engine's cache: prompts cost about the traces' own tokens. At most
    (steps - 1) * rollouts roll-outs a trace, log2(steps) * rollouts for a wrong one with `first_error`.
    Memory here: the traces, 100 bytes a roll-out. Disk: about 8 bytes a rolled-out token.

    Raises:
        ValueError: the user's mistake, found before a model is loaded.
        WorkerError: an engine process failed; the same command goes on from there.
    """
    recipe = resolve(recipe)
    with only_one(recipe.out):
        claim(recipe.out, identity(recipe))
        plan = make_plan(recipe)
        describe_refused(plan.found, console)
        if plan.outcomes.damaged:
            console.print(f"{plan.outcomes.damaged} journal lines were cut off or damaged; drawn again")
        if plan.standing.open_round is not None:
            _draw(recipe, plan, console)
            plan.outcomes.update()
            again = replay(recipe.policy(), plan.outlines, plan.outcomes)
            assert again.open_round is None, "labels are missing after every worker ended well"
            plan = Plan(plan.found, plan.outlines, plan.outcomes, again)
        card = _write(recipe, plan)
        print_card(card, console)
    console.print(f"step labels  {recipe.out / 'steps.jsonl'}", markup=False)
    return card


def _draw(recipe: StepsRecipe, plan: Plan, console: Console) -> None:
    workers = recipe.model_copy(update={"data_parallel": min(recipe.data_parallel, len(plan.outlines))})
    write_text(recipe.out / "work" / "recipe.json", workers.model_dump_json())
    write_traces(recipe.out / "work" / "traces.jsonl", plan.found.traces)
    labelled = len(plan.standing.labels)
    console.print(
        f"{plan.outcomes.rollouts} roll-outs done, {labelled} of {len(plan.outlines)} traces labelled; "
        f"{recipe.engine.kind} goes on"
    )
    total = sum(_tests(outline, recipe) for outline in plan.outlines)
    with StepProgress(plan.outcomes, total, console) as progress:
        run_workers(
            workers.sampling(),
            recipe.out,
            workers.data_parallel,
            progress.update,
            module="kit.steps.worker",
        )


def _tests(outline: Outline, recipe: StepsRecipe) -> int:
    """Prefixes of a trace that are looked at, at most."""
    if recipe.search == "all":
        return len(outline.keys)
    return 0 if outline.own else bisection_tests(outline.steps)


def _write(recipe: StepsRecipe, plan: Plan) -> StepCard:
    audits = [
        label.audit for labels in plan.standing.labels.values() for label in labels if label.audit is not None
    ]
    names = "rollouts threshold first_wave wave adaptive agreement spend pilot audit search"
    names += " seed temperature top_p min_p max_tokens"
    return write_steps(
        recipe.out,
        _records(recipe, plan),
        settings={name: getattr(recipe, name) for name in names.split()},
        dropped=dict(plan.found.refused),
        drawn={"rollouts_cut": plan.outcomes.cut, "rollout_tokens": plan.outcomes.tokens},
        audit=Audit(prefixes=len(audits), agree=sum(audits)),
    )


def _records(recipe: StepsRecipe, plan: Plan) -> Iterator[StepRecord]:
    name = teacher_name(recipe.model)
    for index, trace in enumerate(plan.found.traces):
        yield record_of(trace, plan.standing.labels[index], plan.standing.rules_of[index], name)


def record_of(trace: Trace, labels: list[StepLabel], rules: RoundRules, model: str) -> StepRecord:
    """One trace's record."""
    last = len(labels) - 1
    soft = [
        label.successes / label.rollouts if label.rollouts else float(label.right) if step == last else None
        for step, label in enumerate(labels)
    ]
    return StepRecord(
        id=trace.record.id,
        problem=trace.record.problem,
        answer=trace.record.answer,
        system=trace.record.system,
        steps=list(trace.steps),
        labels=[int(label.right) for label in labels],
        soft=[None if value is None else round(value, 6) for value in soft],
        estimates=[round(rules.estimate(label), 6) for label in labels],
        rollouts=[label.rollouts for label in labels],
        first_error=first_error([label.right for label in labels]),
        correct=trace.own,
        source=trace.record.source,
        licence=trace.record.licence,
        teacher=trace.record.teacher,
        model=model,
    )


def dry_run(recipe: StepsRecipe, console: Console) -> None:
    """Print what a run would do; nothing is written, no model is loaded."""
    recipe = resolve(recipe)
    claim(recipe.out, identity(recipe), write=False)
    plan = make_plan(recipe)
    describe_refused(plan.found, console)
    tests = [_tests(outline, recipe) for outline in plan.outlines]
    traces = plan.found.traces
    context = min(recipe.engine.max_model_len, context_length(recipe.model))
    most = length = 0.0
    for trace, count in zip(traces, tests, strict=True):
        prefixes = trace.prefix_lengths()
        inner = prefixes[:-1] or [prefixes[-1]]
        share = recipe.rollouts * count / len(inner)
        most += share * sum(min(recipe.max_tokens, context - tokens) for tokens in inner)
        # A roll-out is about as long as what the trace itself has left.
        length += share * sum(prefixes[-1] - tokens for tokens in inner)
    rollouts = recipe.rollouts * sum(tests)
    share = expected_share(recipe, plan)
    steps = sum(len(trace.steps) for trace in traces)
    console.print(f"{len(traces)} traces, {steps} steps, {sum(tests)} prefixes to roll out at most")
    console.print(
        f"at most {rollouts:,} roll-outs of {recipe.rollouts} a prefix and {most:,.0f} tokens; "
        f"{plan.outcomes.rollouts} done"
    )
    console.print(f"expected: about {share * rollouts:,.0f} roll-outs and {share * length:,.0f} tokens")
    read = sum(trace.prefix_lengths()[-1] for trace, count in zip(traces, tests, strict=True) if count)
    console.print(f"prompts: {read:,} tokens, each read about once (prefix cache)")


def expected_share(recipe: StepsRecipe, plan: Plan) -> float:
    """Roll-outs as a share of all, by the rules of the last round that is known; before any data, a guess."""
    policy = recipe.policy()
    if not policy.adaptive:
        return 1.0
    whole = sum(len(outline.keys) for outline in plan.outlines)
    if not whole:
        return 0.0
    pilot = sum(len(plan.outlines[index].keys) for index in policy.rounds(plan.outlines)[0])
    rules = plan.standing.rules if plan.standing.labels else policy.fitted_rules([])
    adaptive, certain = rules.expected()
    share = (pilot + policy.audit * (whole - pilot)) / whole
    return (share * certain + (1 - share) * adaptive) / recipe.rollouts


def print_card(card: StepCard, console: Console) -> None:
    """The counts as a table."""
    table = Table(show_header=False, title="step labels")
    audit = card.audit
    shown = {
        "records": f"{card.records} of {card.problems} problems ({sum(card.dropped.values())} left out)",
        "steps": f"{card.steps}, {card.right_steps} right",
        "without an error": card.without_error,
        "right answers": f"{card.right_answers}, {card.contradictions} after a step labelled wrong",
        "roll-outs": f"{card.rollouts} ({card.rollout_tokens:,} tokens drawn, {card.rollouts_cut} cut)",
        "audit": f"{audit.agree} of {audit.prefixes} adaptive labels agree with certain ones",
    }
    for name, value in shown.items():
        table.add_row(name, str(value))
    console.print(table)

"""A build from the wish to the bundle: cheap checks first, then wheels, then the one pass over files.

make(Request(out=Path("bundles/aimo"), model=Path("checkpoint")))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kit.package import show, wheels
from kit.package.audit import check_own_config
from kit.package.build import Built, build
from kit.package.contents import Plan, Proof, check_clean, plan
from kit.package.judging import check_wheels, judged, notes_of, wanted_contest
from kit.package.proof.provenance import Provenance, check_day, provenance
from kit.package.proof.signature import check_signing, sign
from kit.package.quantize.draft import check_draft
from kit.package.quantize.prepare import Wish, prepare, table
from kit.package.resolve.explain import explain
from kit.package.resolve.lock import Lock
from kit.package.splitting import parse_size, split
from kit.package.swap import check_output
from kit.package.targets import Target
from submission.agents.team import load_team
from submission.checkpoint import Checkpoint, inspect
from submission.prm.heads import check_prm
from submission.selection.calibration import load_calibration
from submission.settings import ContestSettings, profile_path

WHEEL_CACHE = wheels.ROOT / "build" / "wheels"
DEFAULT_MODEL_NOTE = (
    "This is the kit's default model (135M parameters): it proves that the whole way works, but it solves "
    "little beyond one-step arithmetic."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a build is asked for; the fields are the options of `python -m kit.package`.

    `model` None is the kit's default model, `target` None this machine.
    """

    out: Path | None
    model: Path | None = None
    profile: str = "aimo3"
    settings: Path | None = None
    overrides: tuple[str, ...] = ()
    team: str | None = None
    prm: Path | None = None
    calibration: Path | None = None
    target: str | None = None
    kaggle_user: str | None = None
    wheel_cache: Path = WHEEL_CACHE
    with_wheels: bool = True
    dry_run: bool = False
    wish: Wish = field(default_factory=Wish)
    draft: Path | None = None
    leave_out: tuple[str, ...] = ()
    image: str | None = None
    contest: str | None = None
    rules: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    model_released: str | None = None
    prm_released: str | None = None
    allow_dirty: bool = False
    key: Path | None = None
    split_size: str | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """What goes along of models, inspected, and where each comes from."""

    solver: Checkpoint
    prm: Checkpoint | None
    solver_origin: Provenance
    prm_origin: Provenance
    draft: Checkpoint | None = None
    quantization: Mapping[str, Any] = field(default_factory=dict)
    draft_origin: Provenance = field(default_factory=Provenance)


def make(request: Request) -> Built | None:
    """Build as asked, and show what was done; None after a dry run.

    Raises:
        ValueError: anything that is wrong with the wish, the models, wheels or disk, or breaks a rule.
    """
    if request.out is None:
        raise ValueError("--out is missing: name the bundle's folder, for example --out bundles/aimo")
    settings = contest_settings(request)
    target = wanted_target(request.target)
    check_output(request.out.absolute())
    _check_wish(request)
    limit = parse_size(request.split_size) if request.split_size else None
    models = inspect_models(request)
    lock = _lock(request, target) if request.with_wheels and not request.dry_run else None
    # What may not go along is refused before hours of work are put into it.
    if request.wish.adapter or (request.wish.quantize, request.wish.quantize_prm) != ("none", "none"):
        judge_bundle(request, settings, target, models, lock, None)
    models = prepare_models(request, models)
    planned = plan_bundle(request, settings, target, models, None)
    rules = judge_bundle(request, settings, target, models, lock, planned)
    if lock is None:
        planned = replace(planned, manifest={**planned.manifest, "rules": rules})
    else:
        house = obtain_wheels(request, target)
        planned = plan_bundle(request, settings, target, models, house, rules)
    if limit is not None:
        planned = split(planned, limit)
    if request.dry_run:
        show.show_plan(planned, models.solver, target, with_wheels=request.with_wheels)
        return None
    with show.bytes_bar(f"building {request.out}", planned.size) as progress:
        built = build(planned, request.out, progress)
    show.show_built(built, planned)
    if request.key is not None:
        show.note(f"signed: {sign(built.folder, request.key)}", style="")
    return built


def explain_wheels(request: Request) -> None:
    """Show why each wheel of the target is there and what it weighs, and what is wrong with the choice.

    Raises:
        ValueError: the wheels do not resolve, or `--leave-out` or `--image` names what is not there.
    """
    target = wanted_target(request.target)
    lock = wheels.resolve(target, request.wheel_cache, leave_out=request.leave_out)
    kept, left_out = wheels.without(lock, request.leave_out)
    show.show_table(explain(lock, left_out))
    contest = wanted_contest(request.contest, contest_settings(request), request.rules)
    image = request.image or (contest.image if contest and request.target else None)
    show.show_target(target)
    found = check_wheels(kept, target, image)
    for text in (*(f"would be refused: {breach}" for breach in found.breaches), *found.notes):
        show.note(text)


def _check_wish(request: Request) -> None:
    """What can be refused before any file of a model is opened."""
    check_day(request.model_released, "--model-released")
    check_day(request.prm_released, "--prm-released")
    if request.key is not None:
        check_signing(request.key)
    if not request.allow_dirty:
        check_clean()


def contest_settings(request: Request) -> ContestSettings:
    """The settings that go along; whatever they are read from is checked."""
    contest = ContestSettings.load(request.settings or profile_path(request.profile), request.overrides)
    if request.team is not None:
        contest = contest.model_copy(update={"team": load_team(request.team)})
    if request.calibration is not None:
        load_calibration(request.calibration)
    return contest


def wanted_target(name: str | None) -> Target:
    """The target of that name, by default this machine."""
    return Target.parse(name) if name else Target.local()


def inspect_models(request: Request) -> Models:
    """The checkpoints as they are given, once every check has passed, and where they come from."""
    if request.prm is not None:
        check_prm(request.prm)
    solver = inspect(request.model or _default_model())
    prm = inspect(request.prm, prm=True) if request.prm else None
    draft = check_draft(request.draft, solver) if request.draft else None
    for checkpoint in (solver, prm, draft):
        if checkpoint is not None:
            check_own_config(checkpoint)
    return Models(
        solver,
        prm,
        provenance(solver.folder, request.model_released),
        provenance(prm.folder, request.prm_released) if prm else Provenance(),
        draft,
        draft_origin=provenance(draft.folder) if draft else Provenance(),
    )


def prepare_models(request: Request, models: Models) -> Models:
    """The models as they go along: merged and quantized as wished. They come from where the originals do."""
    solver, prm = models.solver, models.prm
    with show.working("models") as say:
        made = prepare(request.wish, solver.folder, prm.folder if prm else None, say, dry_run=request.dry_run)
    if made.record:
        show.show_table(table(made.record))
    solver = inspect(made.solver)
    prm = inspect(made.prm, prm=True) if made.prm else None
    return replace(models, solver=solver, prm=prm, quantization=made.record)


def _default_model() -> Path:
    from kit.models import default_model

    show.console.print(
        f"NOTE: no --model given. {DEFAULT_MODEL_NOTE} Give --model for a contest.", style="bold yellow"
    )
    return default_model()


def _lock(request: Request, target: Target) -> Lock:
    show.console.print(
        f"wheels for {target.name} (kept in {request.wheel_cache / target.name})", markup=False
    )
    show.show_target(target)
    return wheels.resolve(target, request.wheel_cache, leave_out=request.leave_out)


def judge_bundle(
    request: Request,
    settings: ContestSettings,
    target: Target,
    models: Models,
    lock: Lock | None,
    planned: Plan | None,
) -> Mapping[str, Any]:
    """What the manifest says of the rules, once none is broken but those that may be.

    Without a plan, sizes are not judged yet.
    """
    contest = wanted_contest(request.contest, settings, request.rules)
    judging = {"model": (models.solver, models.solver_origin)}
    if models.prm is not None:
        judging["prm"] = (models.prm, models.prm_origin)
    if models.draft is not None:
        judging["draft"] = (models.draft, models.draft_origin)
    record = judged(
        contest,
        settings,
        target,
        planned,
        wheels.without(lock, request.leave_out)[0] if lock else (),
        judging,
        image=request.image,
        for_contest=request.target is not None,
        ignored=request.ignored,
        limit=parse_size(request.split_size) if request.split_size else None,
    )
    if planned is not None:
        for text in notes_of(record):
            show.note(text)
    return record


def obtain_wheels(request: Request, target: Target) -> wheels.Wheelhouse:
    """The target's wheels, resolved, checked and downloaded into the cache."""
    return wheels.wheelhouse(target, request.wheel_cache, leave_out=request.leave_out)


def plan_bundle(
    request: Request,
    settings: ContestSettings,
    target: Target,
    models: Models,
    house: wheels.Wheelhouse | None,
    rules: Mapping[str, Any] | None = None,
) -> Plan:
    """Every file of the bundle and its manifest."""
    return plan(
        models.solver,
        settings,
        target,
        house,
        prm=models.prm,
        draft=models.draft,
        quantization=models.quantization,
        calibration=request.calibration,
        kaggle_user=request.kaggle_user,
        model_note=None if request.model else DEFAULT_MODEL_NOTE,
        proof=Proof(models.solver_origin, models.prm_origin, models.draft_origin, rules),
    )

"""The rules gate: would this bundle be let into the contest? All breaches are found before any is told."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from kit.package.breach import Breach, Findings
from kit.package.proof.contest import Contest
from kit.package.proof.provenance import Provenance
from kit.package.targets import Target
from submission.checkpoint import Checkpoint
from submission.settings import ContestSettings

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged: everything that is known before a byte is copied.

    Args:
        sizes: bytes of every file by its path in the bundle, wheels included.
        models: the solver, and what goes along with it (process reward model, draft model), by their folder's
            name in the bundle.
        for_contest: the target was named, so it is the contest's and not this machine.
        split_at: bytes that larger files are cut to.
    """

    settings: ContestSettings
    target: Target
    sizes: Mapping[str, int]
    models: Mapping[str, tuple[Checkpoint, Provenance]]
    for_contest: bool
    split_at: int | None = None


def judge(contest: Contest, candidate: Candidate) -> Findings:
    """Every rule of the contest that the bundle would break, and what could not be judged."""
    found = Findings((*_sizes(contest, candidate), *_settings(contest, candidate)))
    for name, (checkpoint, origin) in candidate.models.items():
        found += _licence(contest, name, checkpoint)
        found += _release(contest, name, origin)
        found += _data(contest, name, origin)
    return found + _machine(contest, candidate)


def enforce(found: Findings, ignored: Collection[str], contest: str) -> dict[str, Any]:
    """Refuse the build unless every breach is ignored by name; returns what the manifest says of it.

    Raises:
        ValueError: the message lists every breach that is not ignored. Or a name in `ignored` is no breach,
            so that an exception does not outlive its reason.
    """
    rules = {breach.rule for breach in found.breaches}
    for name in ignored:
        if name not in rules:
            close = difflib.get_close_matches(name, rules, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            named = ", ".join(sorted(rules)) or "none"
            raise ValueError(f"--ignore-rule {name}: this bundle does not break it; {hint}it breaks: {named}")
    left = [breach for breach in found.breaches if breach.rule not in ignored]
    if left:
        lines = "\n".join(f"  - {breach}" for breach in left)
        raise ValueError(f"the bundle breaks {len(left)} rules of {contest}:\n{lines}")
    return {
        "contest": contest,
        "ignored": [
            {"rule": breach.rule, "found": breach.found, "wanted": breach.wanted} for breach in found.breaches
        ],
        "notes": list(found.notes),
    }


def _sizes(contest: Contest, candidate: Candidate) -> Iterable[Breach]:
    total = sum(candidate.sizes.values())
    if contest.dataset_gb and total > contest.dataset_gb * 1e9:
        found = f"the bundle has {total / 1e9:.1f} GB"
        wanted = f"a dataset may have {contest.dataset_gb:g} GB"
        yield Breach("dataset-size", found, wanted, "Quantize the model (--quantize), or take a smaller one")
    large = [path for path, size in candidate.sizes.items() if size > contest.file_gb * 1e9]
    cut = candidate.split_at is not None and candidate.split_at <= contest.file_gb * 1e9
    if contest.file_gb and large and not cut:
        worst = max(large, key=lambda path: candidate.sizes[path])
        found = (
            f"{len(large)} files are too large, {worst} with {candidate.sizes[worst] / 1e9:.1f} GB the most"
        )
        wanted = f"a file may have {contest.file_gb:g} GB"
        yield Breach("file-size", found, wanted, f"Have files cut: --split-size {contest.file_gb:g}G")


def _settings(contest: Contest, candidate: Candidate) -> Iterable[Breach]:
    rules, engine = candidate.settings.rules, candidate.settings.engine
    if (rules.answer_min, rules.answer_max) != (contest.answer_min, contest.answer_max):
        found = f"answers are {rules.answer_min} to {rules.answer_max} by the settings"
        wanted = f"{contest.name} asks for {contest.answer_min} to {contest.answer_max}"
        fix = f"--set rules.answer_min={contest.answer_min} --set rules.answer_max={contest.answer_max}"
        yield Breach("answer-range", found, wanted, fix)
    limit = contest.hours * 3600
    if limit and rules.time_limit > limit:
        found = f"the settings plan {rules.time_limit:,.0f} s"
        wanted = f"{contest.name} ends after {limit:,.0f} s"
        yield Breach("hours", found, wanted, f"--set rules.time_limit={limit * 0.96:.0f}")
    if rules.accelerator != contest.accelerator or rules.accelerators != contest.accelerators:
        found = f"the settings ask for {rules.accelerators} x {rules.accelerator or 'any machine'}"
        wanted = f"{contest.name} runs on {contest.accelerators} x {contest.accelerator}"
        fix = f"--set rules.accelerator={contest.accelerator} --set rules.accelerators={contest.accelerators}"
        yield Breach("accelerator", found, wanted, fix)
    if contest.accelerators and engine.tensor_parallel_size > contest.accelerators:
        found = f"the model is spread over {engine.tensor_parallel_size} accelerators"
        wanted = f"{contest.name} has {contest.accelerators}"
        yield Breach(
            "tensor-parallel", found, wanted, f"--set engine.tensor_parallel_size={contest.accelerators}"
        )


def _licence(contest: Contest, name: str, checkpoint: Checkpoint) -> Findings:
    if not contest.licenses:
        return Findings(notes=[f"licence of {name}/ not judged: {contest.name} names none"])
    wanted = f"{contest.name} takes {', '.join(contest.licenses)}"
    if checkpoint.license is None:
        fix = f"State it in the front matter of {checkpoint.folder / 'README.md'}: license: apache-2.0"
        return Findings([Breach(f"{name}-licence", f"{checkpoint.name} states no licence", wanted, fix)])
    if _plain(checkpoint.license) not in map(_plain, contest.licenses):
        found = f"{checkpoint.name} is under {checkpoint.license}"
        fix = "Take a model with one of them, or add it: --rule 'licenses=[...]'"
        return Findings([Breach(f"{name}-licence", found, wanted, fix)])
    return Findings()


def _release(contest: Contest, name: str, origin: Provenance) -> Findings:
    if not contest.released_before:
        day = origin.released or "not stated"
        return Findings(notes=[f"release of {name}/ ({day}) not judged: {contest.name} names no day"])
    wanted = f"{contest.name} takes models from before {contest.released_before}"
    if origin.released is None:
        option = f"--{name}-released YYYY-MM-DD, or" if name != "draft" else ""
        fix = f"State the day that its base model came out: {option} released: YYYY-MM-DD in its README.md"
        return Findings([Breach(f"{name}-release", f"{name}/ states no release date", wanted, fix)])
    if date.fromisoformat(origin.released) >= date.fromisoformat(contest.released_before):
        found = f"{name}/ came out on {origin.released}"
        return Findings([Breach(f"{name}-release", found, wanted, "Take an earlier model")])
    return Findings()


def _data(contest: Contest, name: str, origin: Provenance) -> Findings:
    """Licences of the data that a run of ours was trained on; another's training is not ours to know."""
    notes = [f"data of {name}/ not judged: {path} has no card" for path in origin.data_unknown]
    allowed = set(map(_plain, contest.licenses))
    stated = origin.data_licences
    if stated.get(""):
        notes.append(f"data of {name}/: {stated['']:,} records state no licence")
    bad = [licence for licence in stated if licence and _plain(licence) not in allowed]
    if not allowed or not bad:
        return Findings(notes=notes)
    found = f"{name}/ was trained on data under {', '.join(bad)}"
    wanted = f"{contest.name} takes {', '.join(contest.licenses)}"
    fix = "Train without that set, or add its licence: --rule 'licenses=[...]'"
    return Findings([Breach(f"{name}-data-licence", found, wanted, fix)], notes)


def _plain(licence: str) -> str:
    return re.sub(r"[\s_-]+", "-", licence.strip().lower())


def _machine(contest: Contest, candidate: Candidate) -> Findings:
    target = candidate.target
    if not candidate.for_contest:
        note = f"built for this machine ({target.name}): for {contest.name} name its --target"
        return Findings(notes=[note] if target.engine != contest.engine else [])
    found: Sequence[Breach] = ()
    if target.engine != contest.engine:
        wanted = f"{contest.name} has {contest.accelerators} x {contest.accelerator or contest.engine}"
        fix = f"--target {target.name.rpartition('-')[0]}-{contest.engine}"
        found = [Breach("target", f"the bundle is for {target.name}", wanted, fix)]
    memory = contest.accelerators * contest.accelerator_gib * GIB
    weights = sum(size for path, size in candidate.sizes.items() if path.endswith(".safetensors"))
    if memory and weights > memory:
        had = f"the weights have {weights / GIB:.0f} GiB"
        wanted = f"{contest.name}'s accelerators have {memory / GIB:.0f}"
        found = [
            *found,
            Breach("weights", had, wanted, "Quantize the model (--quantize), or take a smaller one"),
        ]
    return Findings(found)

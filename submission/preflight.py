"""A look at the machine before the contest: is it the one that was asked for, and is all there?

At commit time a failed check ends the run with the whole list, while there is still somebody to mend it. In
the run that counts nothing is ended by it: what can be answered on a wrong machine beats no answers at all.
Every check only looks; none takes memory of the accelerator from the engine that is to come.
"""

import logging
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from submission.bundle import MANIFEST, Bundle, quick_check, verify
from submission.checkpoint import inspect
from submission.gateway.organiser import DEPTH, INPUT, folders
from submission.machine import GIB, Gpu, Machine, this_machine
from submission.prm.room import make_room
from submission.settings import ContestRules, ContestSettings

log = logging.getLogger(__name__)

DISK_GIB = 2.0
"""For journal, report, logs, and what compilers cache."""
TEMPORARY_GIB = 0.5
LEAST_MEMORY_GIB = 8.0
"""Of the machine's memory, beside an accelerator; on a CPU the weights have to fit as well."""
PORTS = (50_051, *range(60_053, 60_063))
"""Of the organiser's server and gateway."""
_GROUPS = frozenset({"competitions", "datasets", "models", "notebooks"})


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what to do where it is not right."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def preflight(
    rules: ContestRules,
    *,
    bundle: Path | None,
    model: Path | None,
    work: Path,
    settings: ContestSettings | None = None,
    prm: Path | None = None,
    machine: Machine | None = None,
    mounts: Path = INPUT,
    ports: Sequence[int] = PORTS,
    thorough: bool = False,
) -> tuple[Check, ...]:
    """Look at everything; takes seconds (an import of torch where there is an NVIDIA driver).

    Args:
        rules: what the contest is played on.
        bundle: its folder, None where the model comes from the environment.
        model: the checkpoint's folder, None for recorded samples.
        work: where the journal and the submission go.
        settings, prm: of the contest, and the process reward model's folder, if there is one.
        machine: what to compare; by default this machine.
        mounts: where the organiser mounts data.
        ports: that must be free for the gateway.
        thorough: hash the bundle's files, weights included, instead of comparing sizes.
    """
    manifest = _manifest(bundle)
    target = str(manifest.get("target", ""))
    machine = machine or this_machine()
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("accelerator", lambda: check_accelerator(rules, machine, target, needed=model is not None)),
        ("memory", lambda: check_memory(machine, model)),
        ("PRM", lambda: check_room(machine, settings, prm)),
        ("cores", lambda: Check("cores", True, f"{machine.cores} to use")),
        ("python", lambda: check_python(machine, target)),
        ("disk", lambda: check_disk("disk", work.resolve(), DISK_GIB)),
        ("temporary", lambda: check_disk("temporary", Path(tempfile.gettempdir()), TEMPORARY_GIB)),
        ("mounts", lambda: check_mounts(mounts, bundle)),
        ("bundle", lambda: check_bundle(bundle, thorough=thorough)),
        ("model", lambda: check_model(model)),
        ("licence", lambda: check_licence(rules, manifest)),
        ("release", lambda: check_release(rules, manifest)),
        ("ports", lambda: check_ports(ports)),
    ]
    return tuple(_run(name, check) for name, check in checks)


def before_contest(
    settings: ContestSettings,
    *,
    bundle: Path | None,
    model: Path | None,
    prm: Path | None,
    work: Path,
    rerun: bool,
) -> None:
    """What the server does first: look at everything and refuse, or in the run that counts only log.

    In that run it looks from a thread, and neither at ports nor through torch: the server that opens the
    ports and the engine that measures its memory come up beside it.

    Raises:
        ValueError: a check failed, at commit time.
    """

    def look(machine: Machine, ports: Sequence[int]) -> tuple[Check, ...]:
        return preflight(
            settings.rules,
            bundle=bundle,
            model=model,
            work=work,
            settings=settings,
            prm=prm,
            machine=machine,
            ports=ports,
        )

    if not rerun:
        enforce(look(this_machine(), PORTS), rerun=False)
        return

    def tell() -> None:
        try:
            enforce(look(this_machine(ask_torch=False), ()), rerun=True)
        except Exception:
            log.exception("the preflight itself failed")

    try:
        threading.Thread(target=tell, name="preflight", daemon=True).start()
    except RuntimeError:
        log.exception("no preflight: no thread can be started")


def enforce(checks: Sequence[Check], *, rerun: bool) -> None:
    """Log the list; refuse to go on where a check failed and somebody is there to mend it.

    Args:
        checks: from `preflight`.
        rerun: this is the run that counts: log only.

    Raises:
        ValueError: a check failed, at commit time; the message holds the whole list.
    """
    text = table(checks)
    failed = [check.name for check in checks if not check.ok]
    if not failed:
        log.info("preflight:\n%s", text)
    elif rerun:
        log.critical("PREFLIGHT FAILED (%s), and the contest goes on:\n%s", ", ".join(failed), text)
    else:
        raise ValueError(f"preflight failed: {', '.join(failed)}\n{text}")


def table(checks: Sequence[Check]) -> str:
    """A line a check, and what to do below those that failed."""
    lines = []
    for check in checks:
        lines.append(f"  {'ok    ' if check.ok else 'FAILED'}  {check.name:<12} {check.detail}")
        if not check.ok and check.fix:
            lines.append(f"{'':>23}-> {check.fix}")
    return "\n".join(lines)


def _run(name: str, check: Callable[[], Check]) -> Check:
    """A check that cannot be made has failed: nobody knows what it would have found."""
    try:
        return check()
    except (OSError, ValueError) as error:
        return Check(name, False, str(error))


# --- the machine ---------------------------------------------------------------------------------


def check_accelerator(rules: ContestRules, machine: Machine, target: str, *, needed: bool) -> Check:
    """Whether the GPUs are those of the rules (name, number, memory), and both torch and bundle use them."""
    found = _spelled(machine.gpus)
    if not needed:
        return Check("accelerator", True, f"none is needed; {found}")
    if target.endswith("-cpu"):
        detail = f"the bundle is for a CPU; {found}"
        return Check("accelerator", not machine.gpus, detail, "build the bundle for a target ending in -cuda")
    wanted = rules.accelerator
    if wanted or target.endswith("-cuda"):
        right = [gpu for gpu in machine.gpus or () if _is(gpu, wanted) and gpu.gib >= rules.accelerator_gib]
        if len(right) < rules.accelerators:
            memory = f" with {rules.accelerator_gib:g} GiB" if rules.accelerator_gib else ""
            asked = f"{rules.accelerators} x {wanted or 'NVIDIA GPU'}{memory}"
            fix = f"choose {wanted or 'a GPU'} as the notebook's accelerator, and run it again"
            return Check("accelerator", False, f"{asked} wanted, and this machine has {found}", fix)
    return Check("accelerator", not machine.trouble, f"{found} {machine.trouble}".strip(), _MATCH_TORCH)


def _is(gpu: Gpu, wanted: str) -> bool:
    """Whether the name holds the wanted one as a word: an L40 is no L4."""
    whole = rf"(?<![A-Za-z0-9]){re.escape(wanted)}(?![A-Za-z0-9])"
    return not wanted or re.search(whole, gpu.name, re.IGNORECASE) is not None


_MATCH_TORCH = "build the bundle for this machine's driver (its wheels hold a build of torch for CUDA)"


def _spelled(gpus: tuple[Gpu, ...] | None) -> str:
    if gpus is None:
        return "no GPU (no NVIDIA driver)"
    return ", ".join(f"{gpu.name} ({gpu.gib:.0f} GiB)" for gpu in gpus) or "no GPU that can be used"


def check_memory(machine: Machine, model: Path | None) -> Check:
    """Whether the weights fit into memory where they are served from it, and the rest in any case."""
    needed = LEAST_MEMORY_GIB if machine.gpus else 1.0
    if model is not None and not machine.gpus:
        needed += 1.2 * sum(file.stat().st_size for file in model.glob("*.safetensors")) / GIB
    detail = f"{machine.memory / GIB:.1f} GiB, {needed:.1f} needed"
    return Check(
        "memory", machine.memory >= needed * GIB, detail, "choose a larger machine, or a smaller model"
    )


def check_room(machine: Machine, settings: ContestSettings | None, prm: Path | None) -> Check:
    """Whether a process reward model fits beside the solver's engine."""
    if settings is None or prm is None or not machine.gpus:
        return Check("PRM", True, "none on a GPU")
    share = make_room(settings, prm, machine.gpus).engine.gpu_memory_utilization
    return Check("PRM", True, f"the solver's engine has {share:.0%} of the GPU while it is there")


def check_python(machine: Machine, target: str) -> Check:
    """Whether the bundle's wheels are for this Python."""
    found = re.match(r"py3(\d{1,2})-", target)
    if found is None:
        return Check("python", True, f"{machine.python}; no bundle states another")
    wanted = f"3.{found[1]}"
    fix = f"build the bundle for py{machine.python.replace('.', '')}, or pin the notebook's image"
    return Check(
        "python", machine.python == wanted, f"{machine.python}, the bundle's wheels are for {wanted}", fix
    )


def check_disk(name: str, folder: Path, gib: float) -> Check:
    """Whether a folder can be written to and has room."""
    with tempfile.TemporaryFile(dir=folder):
        pass
    free = shutil.disk_usage(folder).free / GIB
    return Check(
        name, free >= gib, f"{free:.1f} GiB free in {folder}, {gib:g} needed", f"make room in {folder}"
    )


def check_ports(ports: Sequence[int]) -> Check:
    """Whether the gateway's ports are free."""
    taken = [port for port in ports if not _free(port)]
    detail = f"{len(ports)} free for the gateway" if ports else "not looked at: the server itself will listen"
    if taken:
        detail = f"taken: {', '.join(map(str, taken))}"
    return Check("ports", not taken, detail, "end the process that listens there (a server of another run?)")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


# --- the data ------------------------------------------------------------------------------------


def _manifest(bundle: Path | None) -> dict[str, Any]:
    """What the bundle states of itself; nothing where it cannot be read, which `check_bundle` tells."""
    try:
        return dict(Bundle.open(bundle).manifest.data) if bundle else {}
    except ValueError:
        return {}


def mounted(root: Path) -> Iterator[Path]:
    """Data sources below the organiser's mount, in its flat layout and in the one by kinds."""
    for folder in sorted(root.iterdir()):
        if folder.name in _GROUPS and folder.is_dir():
            yield from sorted(folder.iterdir())
        else:
            yield folder


def check_mounts(root: Path, bundle: Path | None) -> Check:
    """Whether the bundle is where it is looked for, and what else is mounted."""
    found = [str(path) for path in mounted(root)] if root.is_dir() else []
    detail = f"{len(found)} below {root}: {', '.join(found[:8])}" if found else f"nothing below {root}"
    if bundle is None or (bundle / MANIFEST).is_file():
        return Check("mounts", True, detail)
    below = folders(root, DEPTH) if root.is_dir() else iter(())
    others = [str(folder) for folder in below if (folder / MANIFEST).is_file()]
    fix = f"name the one at {others[0]}" if others else "add the bundle to the notebook's data sources"
    return Check("mounts", False, f"no bundle at {bundle}; {detail}", fix)


def check_bundle(bundle: Path | None, *, thorough: bool) -> Check:
    """Whether the bundle is what was built: by sizes, or by every byte."""
    if bundle is None:
        return Check("bundle", True, "none: the model comes from the environment")
    # A stray file harms nobody: what is loaded is loaded by name.
    faults = [found for found in (verify if thorough else quick_check)(bundle) if found.kind != "added"]
    way = "contents" if thorough else "sizes"
    if not faults:
        return Check("bundle", True, f"{way} are those of {MANIFEST}")
    shown = "; ".join(f"{fault.path} {fault.message}" for fault in faults[:3])
    return Check("bundle", False, f"{len(faults)} {way} differ: {shown}", "upload the bundle again")


def check_model(model: Path | None) -> Check:
    """Whether the checkpoint is whole and of a kind that can be served."""
    if model is None:
        return Check("model", True, "none: recorded samples")
    found = inspect(model)
    return Check("model", True, f"{found.architecture}, {found.size / GIB:.1f} GiB")


def check_licence(rules: ContestRules, manifest: dict[str, Any]) -> Check:
    """Whether the model's licence is one of the rules'."""
    licence = _of_model(manifest, "license")
    allowed = ", ".join(rules.licenses)
    detail = f"{licence or 'not stated'}; the rules allow {allowed or 'any (none is named)'}"
    ok = not rules.licenses or not licence or licence.lower() in {name.lower() for name in rules.licenses}
    return Check("licence", ok, detail, "take a model whose licence the rules allow")


def check_release(rules: ContestRules, manifest: dict[str, Any]) -> Check:
    """Whether the model was released in time."""
    released, before = _of_model(manifest, "released"), rules.released_before
    detail = f"{released or 'not stated'}; the rules ask for before {before or 'no day (none is named)'}"
    ok = not before or not released or date.fromisoformat(released) < date.fromisoformat(before)
    return Check("release", ok, detail, "take a model that was released before that day")


def _of_model(manifest: dict[str, Any], key: str) -> str:
    model = manifest.get("model")
    value = model.get(key) if isinstance(model, dict) else None
    return value if isinstance(value, str) else ""

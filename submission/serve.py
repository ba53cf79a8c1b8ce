"""The contest's side of the gateway: `predict` is served at once, the engine loads behind it."""

import ctypes
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from submission.clock import Stopwatch, started_at
from submission.contest import Contest, Known, read_known
from submission.engines.base import Engine
from submission.gateway.organiser import RERUN, find_organiser, serve
from submission.gateway.predict import make_predict
from submission.gateway.rehearsal import start_server
from submission.home import ensure_home
from submission.journal import ContestLine, EndLine, Journal, JournalContent, SampleLine, read_journal
from submission.offline import go_offline
from submission.prm.making import make_scorer
from submission.prm.room import side_by_side
from submission.reporting.unanswered import no_model_answered
from submission.runtime import Runtime
from submission.settings import ContestRules
from submission.setup import Setup
from submission.supervision import make_supervised

log = logging.getLogger(__name__)

# A journal that nobody wrote to for this long belongs to another day's contest.
STALE_SECONDS = 86_400.0
# A shorter contest is a test, in which the time may well be out before it begins.
SHORTEST = 3_600.0
# An engine whose log cannot grow may fail by it. The warden keeps it shorter than this.
LOG_ROOM = 128 << 20
PR_SET_PDEATHSIG = 1
EngineMaker = Callable[..., Engine]
"""`make_supervised`, or what a fault suite puts in its place."""
PARENT = "AIMO_PARENT_PID"


def serve_organiser(
    setup: Setup | None, journal: Path, test_csv: Path | None, bundle: Path | None = None
) -> None:
    """Serve the organiser's gateway until it ends.

    Args:
        setup: None if it could not be resolved in a rerun: every problem then gets the default answer,
            since a file of defaults is a score and an exception is none.
        journal: where the journal goes.
        test_csv: for the local gateway at commit time.
        bundle: where a second model may lie.

    Raises:
        ValueError: at commit time, where no model wrote anything.
    """
    organiser = find_organiser()
    with _predictor(setup, journal, bundle) as predict:
        serve(organiser, predict, test_csv)
    try:
        _end(setup, journal)
    except Exception:
        if not is_rerun():
            raise
        # The answers are given: a notebook that ends in an exception would take them back.
        log.exception("the end of the contest failed")


def _end(setup: Setup | None, journal: Path) -> None:
    mark = "NO MODEL ANSWERED: the bundle could not be used" if setup is None else no_model_answered(journal)
    end_journal(journal)
    if mark:
        log.critical(mark)
        # A model that writes and finds no answer to these few problems is weak; one that writes nothing is
        # not there.
        if not is_rerun() and not any(line.tokens for line in read_journal(journal).of(SampleLine)):
            raise ValueError(mark)


def serve_rehearsal(
    setup: Setup,
    journal: Path,
    socket: Path,
    bundle: Path | None = None,
    engine: EngineMaker = make_supervised,
) -> None:
    """Serve our own gateway on a Unix socket until the parent ends this process or dies."""
    _die_with_parent()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with _predictor(setup, journal, bundle, engine) as predict:
        server = start_server(predict, socket)
        # Awake once a second: a signal that another thread took runs its handler only when this one wakes.
        while not ended.wait(timeout=1.0):
            pass
        server.stop(grace=None)


def is_rerun() -> bool:
    """Whether this is the run that counts."""
    return bool(os.environ.get(RERUN))


@contextmanager
def _predictor(
    setup: Setup | None, journal: Path, bundle: Path | None, make_engine: EngineMaker = make_supervised
) -> Iterator[Callable[..., Any]]:
    if setup is None:
        yield _defaults(ContestRules())
        return
    go_offline()
    ensure_home()
    rules = setup.settings.rules
    try:
        known, lines = begin_journal(journal, setup)
    except Exception:
        log.exception("no journal: the contest goes on without one")
        known, lines = Known({}, 0.0), Journal(None)
    elapsed = Stopwatch(already=max(_passed(rules), known.elapsed))

    def fault(what: str, details: str) -> None:
        line = {"type": "fault", "at": round(time.time(), 3), "elapsed": round(elapsed(), 3)}
        lines.write({**line, "what": what, "error": details})

    def contest() -> Contest:
        settings, prm = side_by_side(setup.settings, setup.prm, fault)
        engine = make_engine(
            settings,
            setup.model,
            log=writable(journal.with_name(f"{journal.stem}.engine.log")),
            seconds_left=lambda: rules.time_limit - elapsed(),
            on_fault=fault,
            bundle=bundle,
        )
        scorer = make_scorer(settings, prm)
        return Contest(settings, engine, lines, elapsed, known, scorer, setup.rule)

    try:
        runtime = Runtime(contest, lambda: rules.time_limit - elapsed(), setup.settings.budget.cap)
    except Exception:
        # No thread to be had, say. A server that answers nothing but defaults beats none.
        if not is_rerun():
            raise
        log.exception("no contest: every problem gets the default answer")
        yield _defaults(rules)
        return

    def answer(identifier: str, text: str) -> int:
        return runtime.answer(identifier, text, rules.default_answer)

    try:
        yield make_predict(answer, rules.answer_min, rules.answer_max, rules.default_answer)
    finally:
        runtime.close()


def _passed(rules: ContestRules) -> float:
    """Seconds since the contest began; by a start longer ago than it lasts, no problem would get any time."""
    return time.time() - started_at(max(rules.time_limit, SHORTEST))


def _defaults(rules: ContestRules) -> Callable[..., Any]:
    return make_predict(
        lambda *_: rules.default_answer, rules.answer_min, rules.answer_max, rules.default_answer
    )


def writable(path: Path, room: int = LOG_ROOM) -> Path:
    """Where a log can go: `path`, or a temporary folder, or nowhere; an engine is not lost for its log."""
    places: tuple[Callable[[], Path], ...] = (lambda: path, lambda: Path(tempfile.gettempdir(), path.name))
    for place in places:
        try:
            found = place()
            with found.open("ab"):
                pass
            if shutil.disk_usage(found).free >= room:
                return found
        except OSError as error:
            log.warning("no log in its place: %s", error)
    return Path(os.devnull)


def begin_journal(path: Path, setup: Setup) -> tuple[Known, Journal]:
    """Open the journal: the unfinished one of this very contest is continued, any other is put aside."""
    content = read_journal(path)
    known = Known({}, 0.0)
    if continues(content, setup):
        known = read_known(path, setup.settings.rules.answer_min, setup.settings.rules.answer_max)
        log.warning("continuing %s: %d answers known", path, len(known.answers))
    else:
        put_aside(path)
    journal = Journal(path)
    journal.write(
        {
            "type": "contest",
            "at": round(time.time(), 3),
            "elapsed": round(max(_passed(setup.settings.rules), known.elapsed), 3),
            "digest": setup.digest,
            "name": setup.name,
            "time_limit": setup.settings.rules.time_limit,
        }
    )
    return known, journal


def put_aside(path: Path) -> None:
    """Rename an earlier contest's journal, so that this one begins its own."""
    try:
        path.replace(path.with_name(f"{path.name}.previous"))
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s stays in place: %s", path, error.strerror)


def end_journal(path: Path) -> None:
    """Mark the contest as over: its journal will not be continued."""
    journal = Journal(path)
    journal.write({"type": "end", "at": round(time.time(), 3)})
    journal.close()


def continues(content: JournalContent, setup: Setup) -> bool:
    """Whether these lines are of this very contest, unfinished, and of today."""
    begun = content.of(ContestLine)
    if not begun or content.of(EndLine):
        return False
    age = time.time() - content.lines[-1].at
    return 0 <= age < STALE_SECONDS and begun[0].digest == setup.digest


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # It may have ended before the line above took hold.
        if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
            sys.exit("the parent process is gone")

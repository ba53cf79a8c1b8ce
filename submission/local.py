"""A contest on this machine: the gateway here, the contest in a server process of its own.

The same two processes, and the same rules, as under the organiser's gateway; only the gateway is ours.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rich.console import Console
from rich.text import Text

from submission.clock import STARTED_AT, Stopwatch, started_at
from submission.contest import Known, read_known
from submission.files import write_bytes
from submission.gateway.rehearsal import Gateway, GatewayError, Row
from submission.journal import read_journal
from submission.logged import end_group, last_line, start_module
from submission.problems import Problem
from submission.reporting.display import LiveView, print_results
from submission.reporting.report import write_report
from submission.reporting.results import ContestResults, collect
from submission.serve import PARENT, continues, end_journal, put_aside
from submission.setup import Setup

# Engine processes get this long to end by themselves.
END_SECONDS = 40.0


@dataclass(frozen=True)
class Outputs:
    """Where a local contest writes: all of it beside the submission file."""

    submission: Path
    journal: Path
    report: Path
    log: Path

    @classmethod
    def beside(cls, submission: Path) -> "Outputs":
        """The four paths that belong to `submission` (a .parquet or .csv file).

        Raises:
            ValueError: another suffix, or a folder that cannot be written to.
        """
        if submission.suffix not in {".parquet", ".csv"}:
            raise ValueError(f"--out {submission}: expected a name ending in .parquet or .csv")
        if submission.is_dir():
            raise ValueError(f"--out {submission} is a folder: name a file")
        try:
            submission.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=submission.parent) as probe:
                probe.write(b"\0" * 65536)
                probe.flush()
        except OSError as error:
            raise ValueError(f"--out {submission}: cannot write there: {error.strerror}") from None
        stem = submission.with_suffix("")
        return cls(
            submission,
            stem.with_name(f"{stem.name}.journal.jsonl"),
            stem.with_name(f"{stem.name}.report.html"),
            stem.with_name(f"{stem.name}.server.log"),
        )


def run_contest(
    setup: Setup,
    problems: Sequence[Problem],
    outputs: Outputs,
    *,
    server_options: Sequence[str],
    call_seconds: float,
    shuffle: int | None = None,
    fresh: bool = False,
    console: Console,
) -> ContestResults:
    """Play all problems through the gateway, write the submission and the report, print the table.

    Args:
        setup: resolved here already, so that every mistake shows before a process is started.
        problems: in file order; `shuffle` is the seed of another order.
        outputs: from `Outputs.beside`.
        server_options: command-line options with which the server resolves the same setup.
        call_seconds: the gateway's deadline for every call but the first.
        fresh: start anew even if an unfinished journal of this contest lies there.
        console: where progress goes.

    Raises:
        GatewayError: what would have cost the run under the organiser's gateway as well. The journal
            stays, and the same command continues from it.
        ValueError: another contest writes to the same outputs, or the submission cannot be written.
    """
    ordered = list(problems)
    if shuffle is not None:
        Random(shuffle).shuffle(ordered)
    with _only_one(outputs.submission):
        known = Known({}, 0.0) if fresh else _known(setup, outputs, console)
        if not (known.answers or known.samples):
            put_aside(outputs.journal)
        elapsed = Stopwatch(already=max(time.time() - started_at(), known.elapsed))
        limit = setup.settings.rules.time_limit
        rows: list[Row] = []
        with (
            _socket() as socket,
            server_process(
                server_options, outputs, socket, fresh=not (known.answers or known.samples)
            ) as process,
        ):
            gateway = Gateway(
                socket, setup.settings.rules, call_seconds=call_seconds, alive=lambda: _died(process, outputs)
            )
            with LiveView(outputs.journal, len(ordered), lambda: limit - elapsed(), console) as view:
                gateway.connect()
                served = elapsed()
                for problem, row in zip(ordered, gateway.run(ordered), strict=True):
                    rows.append(row)
                    view.row(problem, row)
            spent = elapsed()
            gateway.close()
        write_submission(outputs.submission, rows)
        end_journal(outputs.journal)
        outcome = collect(
            ordered,
            rows,
            outputs.journal,
            name=setup.name,
            time_limit=limit,
            elapsed=spent,
            served=served,
            notes=setup.notes,
        )
        print_results(outcome, console)
        console.print(Text(f"submission {outputs.submission}"), soft_wrap=True)
        _report(outputs.report, outcome, setup, console)
    return outcome


def _known(setup: Setup, outputs: Outputs, console: Console) -> Known:
    """What an interrupted run of this contest left; a run that had no answer yet left nothing."""
    rules = setup.settings.rules
    if not continues(read_journal(outputs.journal), setup):
        return Known({}, 0.0)
    known = read_known(outputs.journal, rules.answer_min, rules.answer_max)
    if not (known.answers or known.samples):
        return Known({}, 0.0)
    line = f"continuing {outputs.journal}: {len(known.answers)} answers known, {known.elapsed:.0f} s spent"
    console.print(Text(f"{line} (--fresh starts anew)"), soft_wrap=True)
    return known


def _report(path: Path, outcome: ContestResults, setup: Setup, console: Console) -> None:
    try:
        write_report(path, outcome, setup.settings)
    except OSError as error:
        console.print(Text(f"no report: {path} cannot be written: {error.strerror}", "red"), soft_wrap=True)
    else:
        console.print(Text(f"report     {path.resolve().as_uri()}"), soft_wrap=True)


@contextlib.contextmanager
def _only_one(submission: Path) -> Iterator[None]:
    """Two contests with one output would mix their journals: the second one is refused."""
    name = hashlib.sha256(str(submission.resolve()).encode()).hexdigest()[:24]
    with (Path(tempfile.gettempdir()) / f"aimo-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another contest is writing to {submission}: wait for it, or give another --out"
            ) from None
        yield


@contextlib.contextmanager
def _socket() -> Iterator[Path]:
    """A path for a Unix socket, in a folder of its own: such paths have at most 107 bytes."""
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - a private folder is made below it
        if len(os.fsencode(parent)) <= 70:
            with tempfile.TemporaryDirectory(prefix="aimo-", dir=parent) as folder:
                yield Path(folder) / "gateway.sock"
            return


@contextlib.contextmanager
def server_process(
    options: Sequence[str],
    outputs: Outputs,
    socket: Path,
    *,
    fresh: bool,
    extra: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """The contest's process, in a process group of its own that is gone when this block ends.

    Args:
        options: of `python -m submission --serve`.
        outputs: journal and log are the server's.
        socket: where it will listen.
        fresh: start the log anew.
        extra: environment variables.
    """
    package = str(Path(__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",
        STARTED_AT: str(started_at()),
        PARENT: str(os.getpid()),
        **(extra or {}),
    }
    command = ["submission", "--serve", *options]
    command += ["--journal", str(outputs.journal), "--rehearsal-socket", str(socket)]
    process = start_module(command, environment, outputs.log, append=not fresh)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_SECONDS)
        # None of the engine's own processes outlives the contest.
        end_group(process)


def _died(process: "subprocess.Popen[bytes]", outputs: Outputs) -> str:
    code = process.poll()
    if code is None:
        return ""
    line = last_line(outputs.log)
    last = f"; its last line: {line}" if line else ""
    return f"the server ended with code {code}{last} (see {outputs.log})"


def write_submission(path: Path, rows: Sequence[Row]) -> None:
    """Write columns `id` and `answer` as the gateway would, atomically: parquet or csv by the suffix.

    Raises:
        ValueError: the disk is full or gone; the message holds the answers.
    """
    import polars as pl

    answers = [row.answer for row in rows]
    # Answers that the real gateway takes silently (text, fractions) are kept as text, not made to fit.
    whole = all(isinstance(answer, int) and not isinstance(answer, bool) for answer in answers)
    series = (
        pl.Series(answers, dtype=pl.Int64)
        if whole
        else pl.Series([None if a is None else str(a) for a in answers], dtype=pl.String)
    )
    frame = pl.DataFrame({"id": pl.Series([row.id for row in rows], dtype=pl.String), "answer": series})
    content = io.BytesIO()
    if path.suffix == ".parquet":
        frame.write_parquet(content)
    else:
        frame.write_csv(content)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        told = ", ".join(f"{row.id}={row.answer}" for row in rows)
        raise ValueError(
            f"{path} cannot be written: {error.strerror or error}; make room and run the same command again "
            f"(answers in the journal are kept). The answers: {told}"
        ) from None


__all__ = ["GatewayError", "Outputs", "run_contest", "server_process", "write_submission"]

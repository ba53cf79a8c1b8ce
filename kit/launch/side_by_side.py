"""The tasks of a launch on this machine, as many side by side as are asked for, each behind what it needs."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from kit.launch import logs, snapshot
from kit.launch.forecast import seconds_left, spelled
from kit.launch.records import JobRecord
from kit.launch.states import GOOD
from kit.launch.status import rows_of
from kit.launch.submit import Launch, run_local
from kit.launch.tasks import Task

_PATIENCE = 90.0
"""Seconds for jobs to save when this process is asked to end."""
_POLL = 0.2


class Machine:
    """Runs the tasks of one launch.

    Args:
        jobs: side by side at most; each then has its share of the cores.
        usual: seconds that tasks took before, by name.
        why: of each task of a pipeline, why it runs.
    """

    def __init__(
        self,
        launch: Launch,
        jobs: int,
        console: Console,
        *,
        usual: Mapping[str, float] | None = None,
        why: Mapping[str, str] | None = None,
    ) -> None:
        self._launch, self._jobs, self._console = launch, jobs, console
        self._usual, self._why = usual or {}, why or {}
        self._behind = {task.name: len(_behind(task, launch.tasks)) for task in launch.tasks}
        self._threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
        self._live: dict[str, JobRecord] = {}
        self._writing = threading.Lock()
        self._began = time.monotonic()

    def run(self) -> bool:
        """All tasks; what comes after one that failed is left out, with a message. Whether all succeeded."""
        copied = snapshot.take(self._launch.folder)
        waiting, failed = list(self._launch.tasks), set[str]()
        running: dict[Future[str], tuple[Task, float]] = {}
        # The pool waits for its threads, and so for the jobs, after these were asked to end.
        with ThreadPoolExecutor(self._jobs) as pool, self._ending():
            while waiting or running:
                # What most others wait for comes first.
                for task in sorted(waiting, key=lambda one: -self._behind[one.name]):
                    if before := [name for name in task.after if name in failed]:
                        waiting.remove(task)
                        failed.add(task.name)
                        self._tell(task, f"stopped: {before[0]} before it failed")
                    elif len(running) < self._jobs and not self._blocked(task, waiting, running):
                        waiting.remove(task)
                        self._announce(task, len(waiting))
                        running[pool.submit(self._one, task, copied)] = task, time.monotonic()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, since = running.pop(future)
                    problem = future.result()
                    self._tell(task, problem)
                    if problem:
                        failed.add(task.name)
                    self._forecast(task, since, waiting, running)
        return not failed

    @staticmethod
    def _blocked(task: Task, waiting: list[Task], running: Mapping[Future[str], tuple[Task, float]]) -> bool:
        left = {one.name for one in waiting} | {one.name for one, _ in running.values()}
        return any(name in left for name in task.after)

    def _one(self, task: Task, copied: snapshot.Snapshot) -> str:
        """Run a task to its end; what is wrong with it, empty for nothing."""

        def watch(record: JobRecord, over: Callable[[], bool]) -> None:
            self._live[record.job] = record
            self._write(task, record, over)
            del self._live[record.job]

        record = run_local(self._launch, task, copied, watch, threads=self._threads)
        (row,) = rows_of([record])
        return "" if row.state.state == GOOD else row.why or row.state.state

    def _write(self, task: Task, record: JobRecord, over: Callable[[], bool]) -> None:
        """What the task writes; side by side every line has its name in front."""
        rest = b""
        for piece in logs.follow([record.output, record.errors], over):
            if self._jobs == 1:
                self._put(piece)
                continue
            *lines, rest = (rest + piece).split(b"\n")
            self._put(b"".join(b"%s | %s\n" % (task.name.encode(), line) for line in lines))
        if rest:
            self._put(b"%s | %s\n" % (task.name.encode(), rest))

    def _put(self, piece: bytes) -> None:
        with self._writing:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    def _announce(self, task: Task, behind: int) -> None:
        if not self._why:
            return
        number = len(self._launch.tasks) - behind
        usual = f", took {spelled(self._usual[task.name])} before" if task.name in self._usual else ""
        line = f"{number}/{len(self._launch.tasks)} {task.name}: {self._why[task.name]}{usual}"
        self._console.print(line, markup=False, style="bold")

    def _tell(self, task: Task, problem: str) -> None:
        self._console.print(f"{task.name}: {problem or GOOD}", style="red" if problem else "", markup=False)

    def _forecast(
        self,
        task: Task,
        since: float,
        waiting: list[Task],
        running: Mapping[Future[str], tuple[Task, float]],
    ) -> None:
        if not self._why:
            return
        now = time.monotonic()
        spent = {one.name: now - then for one, then in running.values()}
        left = seconds_left([*(one for one, _ in running.values()), *waiting], self._usual, self._jobs, spent)
        about = f", about {spelled(left)} left" if left is not None and (waiting or running) else ""
        line = f"{task.name} took {spelled(now - since)}; {spelled(now - self._began)} so far{about}"
        self._console.print(line, markup=False, style="dim")

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """A TERM to this process, or Ctrl-C, asks the jobs at work to save and stop."""

        def end(number: int, _frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        before = signal.signal(signal.SIGTERM, end)
        try:
            yield
        except BaseException:
            for job in list(self._live):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job), signal.SIGTERM)
            until = time.monotonic() + _PATIENCE
            while self._live and time.monotonic() < until:
                time.sleep(_POLL)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _behind(task: Task, tasks: Sequence[Task]) -> set[str]:
    """Names of all that have to wait for a task."""
    found = {task.name}
    for other in tasks:  # each stands behind those that it comes after
        if found.intersection(other.after):
            found.add(other.name)
    return found - {task.name}

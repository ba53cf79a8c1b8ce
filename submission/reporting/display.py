"""What a person sees in the terminal: a live view during a contest, a table after it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from submission.gateway.rehearsal import Row
from submission.journal import BudgetLine, Line, ProblemLine, SampleLine, parse_line
from submission.problems import Problem
from submission.reporting.insight import insight
from submission.reporting.results import ContestResults


class LiveView:
    """Follows a contest's journal: current problem, votes so far, seconds left.

    On a terminal it redraws itself four times a second; elsewhere (a log, CI) it prints a line a problem.
    """

    def __init__(
        self, journal: Path, problems: int, seconds_left: Callable[[], float], console: Console
    ) -> None:
        self._journal = journal
        self._problems = problems
        self._seconds_left = seconds_left
        self._console = console
        # Whatever an earlier process left in the journal is not this run's news.
        self._offset = journal.stat().st_size if journal.exists() else 0
        self._rest = b""
        self._status = "loading the model"
        self._votes: Counter[int] = Counter()
        self._samples = 0
        self._tokens = 0
        self._done = 0
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def row(self, problem: Problem, row: Row) -> None:
        """One problem is answered: a permanent line."""
        self._done += 1
        self._update()
        left = max(0.0, self._seconds_left())
        # Text, not markup: ids and answers are data, and may hold brackets.
        line = Text.assemble(f"[{self._done}/{self._problems}] {problem.id}: ", (str(row.answer), "bold"))
        if problem.answer is not None:
            right = not row.lost and row.answer == problem.answer
            line.append(" right" if right else " wrong", "green" if right else "red")
        if row.lost:
            line.append(f" LOST: {row.lost}", "bold red")
        line.append(f" after {row.seconds:.1f} s, {left:.0f} s left")
        self._console.print(line)

    def _render(self) -> RenderableType:
        self._update()
        left = max(0.0, self._seconds_left())
        votes = ", ".join(f"{answer}: {count}" for answer, count in self._votes.most_common(6)) or "none yet"
        line = Text.assemble(
            (f"problem {min(self._done + 1, self._problems)} of {self._problems}", "bold"),
            f" - {self._status} - votes {votes} - {self._samples} samples, {self._tokens} tokens - ",
            (f"{left:.0f} s left", "bold"),
        )
        return Group(line, ProgressBar(total=self._problems, completed=self._done, width=60))

    def _update(self) -> None:
        """Read what the journal has gained. A missing or torn line is simply not there yet."""
        try:
            with self._journal.open("rb") as file:
                if file.seek(0, 2) < self._offset:  # a new journal took the old one's place
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            line = parse_line(raw)
            if line is not None:
                self._note(line)

    def _note(self, line: Line) -> None:
        if isinstance(line, ProblemLine):
            self._votes.clear()
            self._samples = self._tokens = 0
            self._status = line.id
        elif isinstance(line, BudgetLine):
            self._status = f"{line.id} (up to {line.seconds:.0f} s)"
        elif isinstance(line, SampleLine):
            self._samples += 1
            self._tokens += line.tokens
            if line.answer is not None:
                self._votes[line.answer] += 1


def results_table(outcome: ContestResults) -> Table:
    """One row a problem: answer, right or wrong, votes, seconds, tokens."""
    table = Table(title=Text(f"Contest with {outcome.name}"))
    table.add_column("problem")
    table.add_column("answer", justify="right")
    table.add_column("gold", justify="right")
    table.add_column("")
    table.add_column("votes")
    table.add_column("seconds", justify="right")
    table.add_column("tokens", justify="right")
    for result in outcome.results:
        marks = {True: "[green]right[/]", False: "[red]wrong[/]", None: "-"}
        votes = ", ".join(f"{answer}: {count}" for answer, count in result.votes[:4])
        if len(result.votes) > 4:
            votes += f", {len(result.votes) - 4} more"
        table.add_row(
            Text(result.problem.id),
            Text(str(result.answer)),
            "-" if result.problem.answer is None else str(result.problem.answer),
            marks[result.right],
            Text(votes) if votes else Text(result.source, "yellow"),
            f"{result.seconds:.1f}",
            str(result.tokens),
        )
    return table


def print_results(outcome: ContestResults, console: Console) -> None:
    """The table, the score, and loudly whatever makes the score not the model's own."""
    console.print(results_table(outcome))
    score = f"score {outcome.score} of {outcome.graded}" if outcome.graded else "no gold answers: not graded"
    console.print(
        f"[bold]{score}[/] in {outcome.elapsed:.0f} of {outcome.time_limit:.0f} s, {outcome.tokens} tokens",
        highlight=False,
    )
    seen = insight(outcome)
    if seen.loss is not None:
        effective = "" if seen.effective is None else f", {seen.effective:.1f} effective attempts a problem"
        plain = "" if seen.plain in (None, seen.chosen) else f", {seen.plain} by the plain vote"
        console.print(
            f"a right attempt for {seen.possible} of {seen.problems}, chosen for {seen.chosen}{plain} "
            f"(selection loss {100 * seen.loss:.1f} points{effective})",
            highlight=False,
        )
    if outcome.served is not None and outcome.ready is not None:
        console.print(
            f"served after {outcome.served:.1f} s, model ready after {outcome.ready:.1f} s", highlight=False
        )
    for note in outcome.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    for fault in outcome.faults:
        console.print(Text(f"fault: {fault}", style="bold red"))
    if outcome.results and outcome.unanswered == len(outcome.results):
        console.print("[bold red]NO MODEL ANSWERED: every answer is the default[/]")
    elif outcome.unanswered:
        console.print(f"[yellow]{outcome.unanswered} problems got the default answer: no sample answered[/]")

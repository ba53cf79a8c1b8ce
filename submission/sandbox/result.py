"""What became of one cell."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Of one cell. All texts are cut to the sandbox's limits; they are the model's words.

    Args:
        output: what it printed, both streams as they came.
        value: the last expression's value as text; empty for None.
        error: a short traceback, or why the sandbox ended it; empty where all went well.
        seconds: from the server's taking it up to its end.
        timed_out: its time was over.
        killed: its process was ended, and the session's variables are gone.
    """

    output: str = ""
    value: str = ""
    error: str = ""
    seconds: float = 0.0
    timed_out: bool = False
    killed: bool = False

    @property
    def text(self) -> str:
        """All of it, as an agent reads it."""
        return "\n".join(part.rstrip("\n") for part in (self.output, self.value, self.error) if part)

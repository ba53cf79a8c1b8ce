"""A sampler that says what it is told to, in this process: for what a random model would do too rarely."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kit.grpo.rollout import Completion, Failure, Request, Synced
from submission.engines.base import Sampling

Script = Callable[[int, int], str | Failure]
"""(prompt number, attempt) -> the completion's text, or how it was lost."""


class Scripted:
    """See `kit.grpo.rollout.Sampler`. Prompts are those of `made.tasks`; each group's requests are attempts.

    Args:
        group_size: requests a prompt.
    """

    def __init__(self, script: Script, group_size: int) -> None:
        self.script, self._size = script, group_size
        self.requests: list[Request] = []
        self.samplings: list[Sampling] = []
        self.synced = 0

    def sync(self, weights: "Iterator[tuple[str, Any]]") -> Synced:
        """Counted; reads the weights."""
        self.synced += 1
        return Synced("", 0.0, len(list(weights)))

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
        """What the script says."""
        self.requests += requests
        self.samplings.append(sampling)
        found: list[Completion | Failure] = []
        for index, request in enumerate(requests):
            said = self.script(request.prompt[0] - 3, index % self._size)
            if isinstance(said, Failure):
                found.append(said)
                continue
            ids = (*(3 + ord(letter) % 200 for letter in said), 258)
            found.append(Completion(ids, (-5.5,) * len(ids), (1,) * len(ids), said, "stop"))
        return found

    def close(self) -> None:
        """Nothing to free."""

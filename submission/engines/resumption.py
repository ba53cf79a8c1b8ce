"""One sample over the deaths of engines: what the next one is asked, and what its reader sees. Pure logic.

The next engine gets the prompt with the tokens written so far, so its stream goes on where the last one broke
off. An engine holds text back that may yet become part of a stop string; what a dead one held is found again
by decoding its tokens, and shown as soon as it cannot be part of a stop string any more.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from submission.engines.base import Chunk, SampleRequest

SEED_STEP = 1_000_003
"""Between the seeds of a sample's lives: the same seed would draw the same random numbers again."""


class Resumption:
    """A sample being written by one engine after another.

    Args:
        request: the sample as it was asked for.
    """

    def __init__(self, request: SampleRequest) -> None:
        self._request = request
        self._ids: list[int] = []
        self._shown: list[str] = []
        self._carry = ""
        self._cached: int | None = None
        self._stops = request.sampling.stop
        self._longest = max(map(len, self._stops), default=0)
        self.resumes = 0
        """Times that it was taken up again."""

    @property
    def written(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    def resume(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Take it up again: find the text that the last engine had not shown yet.

        Args:
            decode: text of token ids, special tokens left out.
        """
        self.resumes += 1
        shown, text = "".join(self._shown), decode(self._ids)
        # A character whose bytes are not all there is the next engine's to finish.
        self._carry = text[len(shown) :].rstrip("\ufffd") if text.startswith(shown) else ""

    def ask(self, prompt: Sequence[int], max_context: int) -> SampleRequest | None:
        """What to ask of the next engine; None where there is no room for another token.

        Args:
            prompt: of the sample, in the tokens of that engine's model.
            max_context: of that engine.
        """
        sampling = self._request.sampling
        left = min(sampling.max_tokens, max_context - len(prompt)) - len(self._ids)
        if left < 1:
            return None
        seed = sampling.seed
        if seed is not None:
            seed = (seed + self.resumes * SEED_STEP) % (1 << 63)
        return replace(
            self._request,
            prompt=[*prompt, *self._ids],
            sampling=replace(sampling, max_tokens=left, seed=seed),
        )

    def take(self, chunk: Chunk) -> Chunk:
        """What the reader sees of an engine's chunk: its finish reason may come sooner than the engine's."""
        self._ids += chunk.token_ids
        if chunk.cached is not None:
            # Of the sample's own prompt: what it had written itself is none of it.
            self._cached = min(chunk.cached, len(self._request.prompt))
            chunk = replace(chunk, cached=self._cached)
        if self._carry:
            chunk = self._join(chunk)
        self._shown.append(chunk.text)
        return chunk

    def rest(self) -> Chunk:
        """The last chunk of a sample that nothing more is asked for."""
        text, self._carry = self._carry, ""
        return Chunk(text, (), (), "length", self._cached)

    def _join(self, chunk: Chunk) -> Chunk:
        """Put what was held back before it; a stop string may lie across the two."""
        text = self._carry + chunk.text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._carry = ""
            return replace(chunk, text=text[: min(found)], finish_reason="stop")
        if chunk.finish_reason or len(chunk.text) >= self._longest:
            self._carry = ""
            return replace(chunk, text=text)
        self._carry = text
        return replace(chunk, text="")

"""One sample, from its role's prompt to its answer: drawn by the engine, its code run in the sandbox."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from submission.agents.formats import ToolFormat, make_format
from submission.agents.sandbox_runner import SandboxRunner, Seats
from submission.agents.team import Role
from submission.agents.tool_writer import Written, write_at_once, write_with_tools
from submission.answers import contest_answer
from submission.engines.base import Engine, Message, SampleRequest, Sampling
from submission.settings import ContestRules, SolverSettings
from submission.solving.aside import Aside
from submission.solving.sample import Finish, Sample

log = logging.getLogger(__name__)

LEAST_COMPLETION = 16
"""Fewer completion tokens than this are not worth a sample: the prompt is too long for the context."""
LONG = 2_000
"""Characters from which a text is read beside the event loop: hostile ones take a microsecond a character."""


@dataclass(frozen=True)
class Asked:
    """A prompt that fits: token ids, and how many tokens may follow."""

    prompt: Sequence[int]
    max_tokens: int


class Drawer:
    """Draws samples in all roles with one engine.

    Args:
        seats: in the sandbox; None where no role runs code.

    Raises:
        ValueError: a role's tool format is not there.
    """

    def __init__(
        self, engine: Engine, settings: SolverSettings, rules: ContestRules, seats: Seats | None
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.rules = rules
        self._seats = seats
        self._formats: dict[str, ToolFormat] = {}
        self._aside = Aside()
        self._turn = asyncio.Lock()

    def ask(self, role: Role, chat: Sequence[Message]) -> Asked | str:
        """Render a prompt; why it cannot be answered, where it cannot."""
        try:
            form = self._format(role)
            prompt = form.prompt(self.engine, chat) if form else self.engine.encode_chat(chat)
        # A template or tokenizer that chokes costs this prompt alone; a panic of its Rust is no Exception.
        except BaseException as error:  # noqa: BLE001
            return f"prompt failed: {type(error).__name__}: {error}"
        room = self.engine.max_context - len(prompt)
        if room < LEAST_COMPLETION:
            return f"prompt of {len(prompt)} tokens does not fit the context"
        return Asked(prompt, min(role.max_tokens or self.settings.max_tokens, room))

    def _format(self, role: Role) -> ToolFormat | None:
        if role.tools == "none":
            return None
        if role.tools not in self._formats:
            self._formats[role.tools] = make_format(role.tools)
        return self._formats[role.tools]

    async def draw(self, sample: Sample, role: Role, asked: Asked, key: str, written: Written) -> None:
        """Write one sample into `sample`; `written` shows how far it is. Raises CancelledError alone."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        request = SampleRequest(
            # Unique over restarts and repeated problems: an engine refuses an id that it still knows.
            request_id=f"{key}-{role.name}-{sample.attempt}-{time.monotonic_ns():x}",
            prompt=asked.prompt,
            sampling=self._sampling(role, asked, sample.attempt),
            problem=key,
            attempt=sample.attempt,
        )
        finish: Finish = "aborted"
        try:
            await self._write(request, role, written)
            assert written.finish is not None
            finish = written.finish
        except asyncio.CancelledError:
            sample.finish = "aborted"  # at once: the policy may be asked before it is read
            raise
        except (KeyboardInterrupt, GeneratorExit):
            raise
        # Whatever an engine throws costs this sample alone; a tokenizer's panic is no Exception.
        except BaseException as error:  # noqa: BLE001
            finish, sample.error = "error", f"{type(error).__name__}: {error}"
        finally:
            sample.seconds = loop.time() - begun
            await self._read(sample, written, finish)

    async def _write(self, request: SampleRequest, role: Role, written: Written) -> None:
        form = self._format(role)
        if form is None or self._seats is None:
            await write_at_once(self.engine, request, written)
            return
        runner = SandboxRunner(self._seats, role.tool_seconds)
        try:
            await write_with_tools(
                self.engine,
                request,
                runner,
                rounds=role.rounds,
                output_chars=role.output_chars,
                tool_format=form,
                written=written,
                turn=self._turn,
            )
        finally:
            runner.close()

    def _sampling(self, role: Role, asked: Asked, attempt: int) -> Sampling:
        settings = self.settings
        return Sampling(
            temperature=settings.temperature if role.temperature is None else role.temperature,
            top_p=settings.top_p if role.top_p is None else role.top_p,
            min_p=settings.min_p if role.min_p is None else role.min_p,
            max_tokens=asked.max_tokens,
            stop=settings.stop,
            seed=settings.seed + attempt,
        )

    async def _read(self, sample: Sample, written: Written, finish: Finish) -> None:
        """`read`, beside the event loop where the text is long."""
        if len(written.text) < LONG:
            self.read(sample, written, finish)
            return
        try:
            await self._aside.do(lambda: self.read(sample, written, finish))
        except asyncio.CancelledError:
            self.read(sample, written, finish)
            # What had ended by itself stays so, though it was cut off while it was read.
            if finish == "aborted":
                raise

    def read(self, sample: Sample, written: Written, finish: Finish) -> None:
        """Put what was written so far into the sample, its answer included, and how it ended."""
        sample.text = written.text
        sample.tokens = written.own
        sample.tool_tokens = len(written.mask) - written.own
        sample.logprob = written.logprob if written.own and math.isfinite(written.logprob) else math.nan
        sample.calls = tuple(written.log)
        sample.prompted, sample.cached = written.prompted, written.cached
        try:
            sample.answer = contest_answer(
                sample.text,
                self.rules.answer_min,
                self.rules.answer_max,
                # A text that was cut off ends anywhere: its last number says nothing.
                last_number=self.settings.last_number and finish in {"stop", "length", "error"},
            )
        except Exception as error:
            # Hostile text that breaks the parser costs its own vote, not the problem's.
            log.exception("a completion cannot be read")
            sample.error = sample.error or f"not read: {type(error).__name__}: {error}"
        sample.finish = finish

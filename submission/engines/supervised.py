"""An engine that is watched, started anew when it fails, and asked for less when it fails again.

The engine lives in a process of its own (`submission.engines.child`). Its end, its silence while samples are
asked for, and its memory are failures: the process and all that it started are ended and a new one is
started, as long as the contest's time allows. Samples that were being written go on in the new one: their
prompt grows by the tokens they had, so that nothing of them is lost and their reader sees one stream.
After repeated failures `submission.degrade` says what to ask for instead; when nothing is left, or too little
time, every sample fails at once, and the contest answers by what is known.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from submission.degrade import Serving, degrade, forgive, next_rung
from submission.engines.base import SWITCH_SECONDS, Chunk, EngineError, MakeRoom, Message, SampleRequest
from submission.engines.child import FACTORY, EngineLostError, EngineProcess
from submission.engines.prompts import Encoder, Prompts, load_encoder
from submission.engines.resumption import Resumption
from submission.machine import machine_memory
from submission.settings import SupervisionSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""Between two looks at an engine's silence."""
MEMORY_SHARE = 0.9


@dataclass
class _Live:
    """A sample that somebody reads."""

    aborted: bool = False
    waiting: "asyncio.Future[EngineProcess | None] | None" = None


class SupervisedEngine:
    """An `Engine` over processes that may die; one event loop uses it.

    Args:
        serving: what to serve at first.
        settings: limits and patience.
        log: what the engine's processes print is appended there.
        seconds_left: time left in the contest; no engine is started anew with less than
            `settings.restart_seconds`.
        on_fault: called in this loop with what happened and its details, for the journal.
        factory, encoder: `module:function` that makes the engine in its process, and what loads the
            tokenizer in this one; for tests.
    """

    def __init__(
        self,
        serving: Serving,
        settings: SupervisionSettings,
        *,
        log: Path,
        seconds_left: Callable[[], float] = lambda: float("inf"),
        on_fault: Callable[[str, str], None] = lambda _what, _details: None,
        factory: str = FACTORY,
        encoder: Callable[[Serving], Encoder] = load_encoder,
    ) -> None:
        self._first = self._serving = serving
        self._settings = settings
        self._log = log
        self._seconds_left = seconds_left
        self._on_fault = on_fault
        self._factory = factory
        # Its tokens are numbers only: nothing could be taken up again from them.
        self._recorded = serving.settings.kind == "replay"
        self._load_encoder = encoder
        self._failures = 0
        self._starts = 0
        self._prompts = Prompts()
        self._max_context = 0
        self._process: EngineProcess | None = None
        self._asleep: EngineProcess | None = None
        self._make_room: MakeRoom | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._given_up = ""
        self._waiting: set[asyncio.Future[EngineProcess | None]] = set()
        self._samples: dict[str, _Live] = {}
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start the engine, with less and less if need be. Raises EngineError if nothing could be started."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        await self._ready(_Live())

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """Token ids of a chat with the generation prompt appended; `tools` offers the Python tool."""
        return self._prompts.encode_chat(messages, tools=tools)

    def count_tokens(self, text: str) -> int:
        """Tokens of plain text, without special tokens."""
        return self._prompts.encoder.count_tokens(text)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: special tokens are neither added nor recognised in it."""
        return self._prompts.encoder.encode_text(text)

    def encode_markup(self, text: str) -> list[int]:
        """Token ids of a template's own text, special tokens recognised. Never for text from a model."""
        return self._prompts.encoder.encode_markup(text)

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._prompts.encoder.decode_text(ids)

    @property
    def max_context(self) -> int:
        """Prompt and completion tokens together at most, as the model is served now."""
        return self._max_context

    @property
    def starts(self) -> int:
        """Engines that were started so far."""
        return self._starts

    @property
    def serving(self) -> Serving:
        """What is served now, or was tried last."""
        return self._serving

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one sample, over the deaths of engines if need be.

        A sample that is taken up again goes on with another seed, which follows from its own.

        Raises:
            EngineLostError: it was lost too often, or no engine is left.
            EngineError: the engine refused or lost this sample alone.
        """
        live = self._samples[request.request_id] = _Live()
        sample = Resumption(request)
        try:
            while not live.aborted:
                process = await self._ready(live)
                if process is None:
                    return
                asked = await self._next(sample, request, process)
                if asked is None:
                    yield sample.rest()
                    return
                try:
                    async with aclosing(process.generate(asked)) as chunks:
                        async for chunk in chunks:
                            shown = sample.take(chunk)
                            yield shown
                            if shown.finish_reason:
                                return
                except EngineLostError:
                    if not (live.aborted or self._goes_on(sample)):
                        raise
                else:
                    return
                await self._turn_of(lambda: sample.resume(self.decode_text))
        finally:
            if self._samples.get(request.request_id) is live:
                del self._samples[request.request_id]

    async def abort(self, request_id: str) -> None:
        """End a sample from outside; its stream ends without a finish reason. Unknown ids are ignored."""
        live = self._samples.get(request_id)
        if live is None:
            return
        live.aborted = True
        if live.waiting is not None and not live.waiting.done():
            live.waiting.set_result(None)
        if self._process is not None:
            self._process.abort(request_id)

    # --- sleep -----------------------------------------------------------------------------------

    def share(self, make_room: MakeRoom) -> None:
        """See `SleepingEngine`."""
        self._make_room = make_room

    def hindrance(self) -> str:
        """See `SleepingEngine`."""
        if self._given_up or self._process is None or self._process.ended.is_set():
            return "there is no engine"
        return f"{len(self._samples)} samples are being written" if self._samples else ""

    async def sleep(self) -> None:
        """Give the GPU's memory back until `wake`; samples that are asked for meanwhile wait.

        Raises:
            EngineError: it did not; it has been ended, and another is started.
        """
        process = self._process
        assert process is not None and not self._samples, "ask `hindrance` first"
        self._asleep = process
        await self._switch(process, "sleep")

    async def wake(self) -> None:
        """Take the memory back. Raises EngineError as `sleep` does; at once where nobody sleeps."""
        process = self._asleep
        if process is None:
            return
        if process is self._process and not process.ended.is_set():
            await self._switch(process, "wake")
        self._asleep = None
        if process is self._process and not process.ended.is_set():
            self._serve(process)

    async def _switch(self, process: EngineProcess, what: Literal["sleep", "wake"]) -> None:
        try:
            async with asyncio.timeout(SWITCH_SECONDS):
                await process.switch(what)
        except (EngineError, TimeoutError) as error:
            why = f"did not {what}: {str(error) or f'not within {SWITCH_SECONDS:.0f} s'}"
            await process.kill(why)  # the keeper starts another
            raise EngineError(f"the engine {why}") from error

    async def close(self) -> None:
        """End the engine and everything that belongs to it; idempotent."""
        self._give_up("the engine is closed")
        process, keeper, self._keeper = self._process, self._keeper, None
        if process is not None:
            await process.close()
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})

    # --- samples ---------------------------------------------------------------------------------

    async def _ready(self, live: _Live) -> EngineProcess | None:
        """The process that serves, as soon as there is one; None if the sample is aborted meanwhile."""
        if self._given_up:
            raise EngineLostError(self._given_up)
        process = self._process
        if process is not None and process is not self._asleep and not process.ended.is_set():
            return process
        live.waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(live.waiting)
        try:
            return await live.waiting
        finally:
            self._waiting.discard(live.waiting)
            live.waiting = None

    async def _next(
        self, sample: Resumption, request: SampleRequest, process: EngineProcess
    ) -> SampleRequest | None:
        prompt = self._prompts.translate(request.prompt)
        if sample.written and list(prompt) != list(request.prompt):
            raise EngineLostError("the sample was begun by a model that no longer serves")
        if len(prompt) >= process.max_context:
            raise EngineError(
                f"prompt of {len(prompt)} tokens does not fit the context of {process.max_context}"
            )
        return await self._turn_of(lambda: sample.ask(prompt, process.max_context))

    def _goes_on(self, sample: Resumption) -> bool:
        return sample.resumes < self._settings.resumes and not self._recorded

    async def _turn_of(self, work: Callable[[], T]) -> T:
        """One long piece of work a turn of the loop, however many samples are lost at once."""
        async with self._turn:
            await asyncio.sleep(0)
            return work()

    # --- the keeper ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Start engines, one after another's failure, until it is no longer worth it."""
        try:
            while not self._given_up:
                await self._one_life()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a mistake of ours must not leave samples waiting for ever
            log.exception("the engine's supervision failed")
            self._fault("supervision failed", f"{type(error).__name__}: {error}")
            self._give_up("the engine's supervision failed")

    async def _one_life(self) -> None:
        serving = degrade(self._first, self._failures)
        left = self._seconds_left()
        if serving is None:
            self._stop(
                f"the engine failed {self._starts} times, at last with the least that can be asked for"
            )
            return
        if self._starts and left < self._settings.restart_seconds:
            self._stop(f"the engine is not started anew with {left:.0f} s left")
            return
        if serving != self._serving:
            self._fault("engine degraded", describe(self._serving, serving))
        self._serving = serving
        self._starts += 1
        process = EngineProcess(serving, log=self._log, memory=self._memory(), factory=self._factory)
        serves = False
        why = "was ended"
        try:
            why = await self._start(process, min(left, self._settings.start_limit))
            if not why:
                serves = True
                self._serve(process)
                why = await self._watch(process)
        finally:
            self._process = None
            await process.kill(why or "ended")
        if self._given_up:
            return
        # What a new engine would do again is not tried again.
        again = serves and not process.overfull
        if self._make_room is not None and await self._make_room(not serves):
            again = True
        self._failures = self._failures + 1 if again else next_rung(self._failures)
        if why and process.verdict:
            why += f"; it {process.verdict}"
        tail = process.tail()
        self._fault("engine failed", (why or process.why) + (f"; its last lines:\n{tail}" if tail else ""))

    async def _start(self, process: EngineProcess, limit: float) -> str:
        """Start a process, and load its tokenizer here; returns what went wrong, "" if nothing."""
        model = self._serving.model
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        starting = loop.create_task(process.start())
        try:
            if not self._prompts.serves(model):
                encoder = await asyncio.to_thread(self._load_encoder, self._serving)
                self._prompts.switch(model, encoder)
                # What the tokenizer's library left lives for ever: frozen, it no longer costs every full
                # collection, which would hold the loop for a tenth of a second.
                await asyncio.to_thread(freeze)
            await asyncio.wait({starting}, timeout=max(0.0, deadline - loop.time()))
            if not starting.done():
                return f"did not start within {limit:.0f} s"
            starting.result()
        except EngineError as error:
            return f"did not start: {error}"
        except asyncio.CancelledError:
            raise
        # Whatever a library does with a tokenizer, sys.exit() or a native panic: another arrangement may be
        # spared it.
        except BaseException as error:  # noqa: BLE001
            return f"did not start: {type(error).__name__}: {error}"
        finally:
            starting.cancel()
            await asyncio.wait({starting})
        return ""

    async def _watch(self, process: EngineProcess) -> str:
        """Wait for a failure; returns what it is, "" where the process has ended and knows more itself."""
        loop = asyncio.get_running_loop()
        look = min(LOOK_SECONDS, self._settings.silence / 4)
        quiet, healthy, news, last = 0.0, 0.0, process.news, loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.ended.wait(), look)
            if process.ended.is_set():
                return ""
            # A loop that stood still itself must not take that time for the engine's silence.
            passed, last = min(loop.time() - last, 2 * look), loop.time()
            quiet = 0.0 if process.news != news or not process.requests else quiet + passed
            news = process.news
            if quiet >= self._settings.silence:
                return f"was silent for {quiet:.0f} s, with {process.requests} samples asked for"
            healthy += passed
            if healthy >= self._settings.healthy_seconds:
                self._failures = forgive(self._failures)

    def _serve(self, process: EngineProcess) -> None:
        self._process = process
        self._max_context = process.max_context
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(process)

    def _stop(self, why: str) -> None:
        self._fault("engine given up", why)
        self._give_up(why)

    def _give_up(self, why: str) -> None:
        self._given_up = self._given_up or why
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(EngineLostError(why))

    def _fault(self, what: str, details: str) -> None:
        log.warning("%s: %s", what, details)
        try:
            self._on_fault(what, details)
        except Exception:
            log.exception("the fault could not be reported")

    def _memory(self) -> int:
        given = self._settings.memory_gib
        return int(given * 2**30) if given is not None else int(MEMORY_SHARE * machine_memory())


def freeze() -> None:
    """Take what lives now out of garbage collection, once the libraries are loaded."""
    gc.collect()
    gc.freeze()


def describe(old: Serving, new: Serving) -> str:
    """What of an arrangement changed, in words."""
    before, after = old.settings.model_dump(), new.settings.model_dump()
    changes = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    if old.model != new.model:
        changes.append(f"model {old.model} -> {new.model}")
    return ", ".join(changes)

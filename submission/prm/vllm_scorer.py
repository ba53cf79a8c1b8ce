"""Step scores by vLLM, in a process of its own: two engines in one process get in each other's way.

Classifiers go through vLLM's token pooling, log-probabilities through its prompt log-probabilities. A token
that several candidates share is asked for once; of a classifier, vLLM's prefix cache then also computes it
once, in whole blocks (16 tokens on a GPU, 128 on a CPU). Prompt log-probabilities never read that cache.
"""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

from submission.engines.base import SWITCH_SECONDS, EngineError
from submission.frames import Channel, ClosedError, Parser
from submission.prm.heads import PrmConfig
from submission.prm.layout import Layout, Long
from submission.prm.scorer import CancelledError, CheckpointScorer, log_odds
from submission.prm.tree import grow
from submission.settings import EngineSettings

START_SECONDS = 1_800.0
"""Loading may read tens of gigabytes from a slow disk."""
SEND_SECONDS = 60.0
_CHILD = "submission.prm.vllm_child"
_SLICE = 0.2


class VllmScorer(CheckpointScorer):
    """A process reward model served by vLLM; see `Scorer` for the methods.

    Args:
        folder: local files: config, safetensors, tokenizer with a chat template, `prm.json` if need be.
        settings: how it is served; on a GPU that another engine uses, mind `gpu_memory_utilization`.
        long: what becomes of solutions beyond the context.
    """

    def __init__(
        self, folder: Path, settings: EngineSettings | None = None, *, long: Long = "windows"
    ) -> None:
        super().__init__(folder, long)
        self._settings = settings or EngineSettings()
        self._child: _Child | None = None
        self._closed = False

    async def sleep(self) -> None:
        """Give the GPU's memory back, once what is being scored is done. Raises EngineError."""
        await asyncio.to_thread(self._switch, "sleep")

    async def wake(self) -> None:
        """Take the memory back. Raises EngineError."""
        await asyncio.to_thread(self._switch, "wake")

    def _switch(self, what: Literal["sleep", "wake"]) -> None:
        with self._lock:
            if self._child is None:
                raise EngineError("the PRM's engine is closed")
            self._child.ask({"do": what}, threading.Event(), time.monotonic() + SWITCH_SECONDS)

    async def close(self) -> None:
        """End the engine's process, one that is being started too; scores under way are lost."""
        self._closed = True
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            await asyncio.to_thread(self._release, child)

    def _release(self, child: "_Child") -> None:
        # Whoever waits for an answer sees its pipe end; closed under that thread, the descriptor could
        # already be another's.
        with self._lock:
            child.release()

    def _load(self, form: PrmConfig) -> None:
        self._max_context = min(self._max_context, self._settings.max_model_len - (form.head == "logprob"))
        child = self._child = _Child()
        if self._closed:  # meanwhile: by who saw no child yet
            child.kill()
        setup = {
            "folder": str(self.folder),
            "head": form.head,
            "context": self._max_context,
            "settings": self._settings.model_dump(mode="json"),
        }
        try:
            with self._lock:
                child.ask(setup, threading.Event(), time.monotonic() + START_SECONDS)
        except BaseException:
            self._child = None
            child.kill()
            self._release(child)
            raise

    def _log_odds(
        self, layouts: Sequence[Layout], form: PrmConfig, stop: threading.Event
    ) -> list[list[float]]:
        tree = grow([layout.ids for layout in layouts])
        logprob = form.head == "logprob"
        places = [
            [[row[at] for at in range(*span)] for span in layout.spans]
            if logprob
            else [[row[end]] for end in layout.ends]
            for row, layout in zip(tree.places, layouts, strict=True)
        ]
        # In the tree's order: a shared beginning is asked for, and computed, with the first to have it.
        order = sorted(range(len(layouts)), key=lambda number: layouts[number].ids)
        wanted: dict[int, list[int]] = {}
        seen: set[int] = set()
        for number in order:
            new = {place for step in places[number] for place in step} - seen
            seen |= new
            if new:
                wanted[number] = sorted(new)
        found = self._read(layouts, tree.depths, wanted, stop, fresh=False)
        lost = {
            number: left for number, row in wanted.items() if (left := [p for p in row if p not in found])
        }
        if lost:  # computed for an earlier question: the cache keeps no rows
            found |= self._read(layouts, tree.depths, lost, stop, fresh=True)
        if logprob:
            return [[sum(found[place] for place in step) for step in row] for row in places]
        return [[log_odds(found[place], form.positive_label) for (place,) in row] for row in places]

    def _read(
        self,
        layouts: Sequence[Layout],
        depths: Sequence[int],
        wanted: dict[int, list[int]],
        stop: threading.Event,
        *,
        fresh: bool,
    ) -> dict[int, Any]:
        """What the engine says at places of the tree; those that it has no rows for left out."""
        if not wanted:
            return {}
        child = self._child
        if child is None:
            raise EngineError("the PRM's engine is closed")
        question = {
            "sequences": [layouts[number].ids for number in wanted],
            "wanted": [[depths[place] for place in row] for row in wanted.values()],
            "fresh": fresh,
        }
        rows = child.ask(question, stop)["rows"]
        return {
            place: value
            for asked, row in zip(wanted.values(), rows, strict=True)
            for place, value in zip(asked, row, strict=True)
            if value is not None
        }


class _Child:
    """The engine's process; asked by one thread at a time, killed from any."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])  # the folder that holds the package
        paths = [root, *(path for path in sys.path if path and path != root)]
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by release()
        self._parser = Parser()
        self._owed = 0
        self._released = False
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-m", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._source = self._process.stdout.fileno()
        self._channel = Channel(os.dup(self._source), os.dup(self._process.stdin.fileno()))
        self._process.stdin.close()

    def ask(
        self, question: dict[str, Any], stop: threading.Event, deadline: float = float("inf")
    ) -> dict[str, Any]:
        """Put a question and wait for its answer.

        Raises:
            EngineError: the child has ended, failed, or is late; the message names its last words.
            CancelledError: `stop` was set; the answer is thrown away when it comes.
        """
        try:
            while self._owed:
                self._receive(stop, deadline)
            self._channel.send(question, time.monotonic() + SEND_SECONDS)
            self._owed += 1
            answer = self._receive(stop, deadline)
        except TimeoutError:
            raise EngineError("the PRM's engine does not answer in time") from None
        except ClosedError:
            raise EngineError(f"the PRM's engine has ended: {self._last_words()}") from None
        if "error" in answer:
            raise EngineError(f"the PRM's engine failed: {answer['error']}")
        return answer

    def kill(self) -> None:
        """End the process with all of its group."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def release(self) -> None:
        """Reap a killed process and close what leads to it, once; only where no other thread asks it."""
        if self._released:
            return
        self._released = True
        self._process.wait()
        self._channel.close()
        self._log.close()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _receive(self, stop: threading.Event, deadline: float) -> dict[str, Any]:
        poller = select.poll()
        poller.register(self._source, select.POLLIN | select.POLLHUP)
        while True:
            if stop.is_set():
                raise CancelledError("the scores are not wanted any more")
            if time.monotonic() > deadline:
                raise TimeoutError
            if not poller.poll(int(_SLICE * 1000)):
                continue
            data = os.read(self._source, 1 << 20)
            if not data:
                raise ClosedError
            # One question, one answer: more than one cannot be there.
            for message in self._parser.feed(data):
                self._owed -= 1
                return message

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4_096))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}: {lines[-1][:300] if lines else 'it wrote nothing'}"

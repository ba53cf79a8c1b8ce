"""Batched sampling with plain transformers, for machines where vllm is not installed.

Requests that wait are taken together into a batch of up to `max_num_seqs`; the batch shares one forward
pass a token, samples that end leave it, and the next batch starts when it is empty. Slower than vLLM (no
paged cache, nobody joins a running batch), the same protocol, and the same seeds whatever the batch.

Memory: weights + batch x (prompt + completion) x layers x 2 x kv heads x head size x bytes.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submission.engines.base import Chunk, EngineError, FinishReason, SampleRequest
from submission.engines.token_sampling import next_tokens
from submission.engines.tokenizer import CheckpointEngine
from submission.machine import give_gpu_back
from submission.offline import go_offline
from submission.settings import EngineSettings

log = logging.getLogger(__name__)


@dataclass
class _Live:
    """One sample in the making; touched by the model's thread, but for `aborted`."""

    request: SampleRequest
    queue: "asyncio.Queue[Chunk | EngineError | None]"
    generator: Any = None
    ids: list[int] = field(default_factory=list)
    window: int = 0  # ids before it are settled
    shown: int = 0  # ids before it are in `text`
    text: str = ""
    sent: int = 0  # characters of `text` that the listener has
    aborted: bool = False


class TransformersEngine(CheckpointEngine):
    """The model folder run by `AutoModelForCausalLM`; see `Engine` for the methods."""

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self._folder = Path(model)
        self._settings = settings
        self._model: Any = None
        self._ends: frozenset[int] = frozenset()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Live] = deque()
        self._known: dict[str, _Live] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Load the weights in a thread and begin to wait for requests."""
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._load)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"transformers could not load {self._folder}: {error}") from error
        self._thread = threading.Thread(target=self._serve, name="transformers-engine", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        go_offline()
        import torch
        from transformers import AutoModelForCausalLM

        self.load_tokenizer(self._folder, self._settings.max_model_len)
        cuda = torch.cuda.is_available()
        name = self._settings.dtype
        dtype = ("auto" if cuda else torch.float32) if name == "auto" else getattr(torch, name)
        self._model = AutoModelForCausalLM.from_pretrained(
            str(self._folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._model.eval().to("cuda" if cuda else "cpu")
        configured = self._model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        assert self._tokenizer is not None
        tokenizer_end = self._tokenizer.tokenizer.eos_token_id
        self._ends = frozenset(end for end in [*ends, tokenizer_end] if end is not None)

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one sample; leaving the iterator takes it out of the batch at the next token."""
        if len(request.prompt) + request.sampling.max_tokens > self._max_context:
            raise EngineError(
                f"prompt of {len(request.prompt)} and completion of {request.sampling.max_tokens} tokens "
                f"exceed the context of {self._max_context}"
            )
        live = _Live(request, asyncio.Queue())
        with self._wake:
            if self._closed:
                raise EngineError("the transformers engine is closed")
            self._known[request.request_id] = live
            self._waiting.append(live)
            self._wake.notify()
        try:
            while True:
                item = await live.queue.get()
                if item is None:
                    return
                if isinstance(item, EngineError):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            live.aborted = True
            self._known.pop(request.request_id, None)

    async def abort(self, request_id: str) -> None:
        """End one sample: its stream ends without a finish reason."""
        live = self._known.get(request_id)
        if live is not None:
            live.aborted = True
            live.queue.put_nowait(None)

    async def close(self) -> None:
        """End all samples and the thread; the weights go with the engine."""
        with self._wake:
            self._closed = True
            for live in self._known.values():
                live.aborted = True
                live.queue.put_nowait(None)
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 30.0)
        if self._model is not None:
            self._model = None
            await asyncio.to_thread(give_gpu_back)

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                size = min(len(self._waiting), self._settings.max_num_seqs)
                batch = [self._waiting.popleft() for _ in range(size)]
            try:
                self._decode(batch)
            except Exception as error:
                log.exception("a batch failed")
                for live in batch:
                    self._send(live, EngineError(f"transformers lost the sample: {error}"))

    def _decode(self, batch: list[_Live]) -> None:
        """Run a batch to its end. Prompts are padded on the left; position ids skip the padding."""
        import torch

        device = self._model.device
        for live in batch:
            live.generator = torch.Generator(device=device)
            seed = live.request.sampling.seed
            if seed is None:
                live.generator.seed()
            else:
                live.generator.manual_seed(seed)
        width = max(len(live.request.prompt) for live in batch)
        pads = [width - len(live.request.prompt) for live in batch]
        # Padding is masked, so any id will do.
        ids = torch.tensor(
            [[0] * pad + list(live.request.prompt) for pad, live in zip(pads, batch, strict=True)],
            device=device,
        )
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=device)
        cache: Any = None
        with torch.inference_mode():
            while batch:
                positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                output = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = output.past_key_values
                tokens, logprobs = next_tokens(
                    output.logits[:, -1],
                    [live.request.sampling for live in batch],
                    [live.generator for live in batch],
                )
                keep = [
                    row for row, live in enumerate(batch) if self._accept(live, tokens[row], logprobs[row])
                ]
                if len(keep) < len(batch):
                    rows = torch.tensor(keep, dtype=torch.long, device=device)
                    batch = [batch[row] for row in keep]
                    tokens, mask = [tokens[row] for row in keep], mask[rows]
                    if batch:
                        cache.batch_select_indices(rows)
                ids = torch.tensor(tokens, device=device).unsqueeze(1)
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)

    def _accept(self, live: _Live, token: int, logprob: float) -> bool:
        """Take one token, tell the listener; returns whether the sample goes on."""
        if live.aborted or self._closed:
            return False
        sampling = live.request.sampling
        live.ids.append(token)
        reason: FinishReason | None = None
        if (token in self._ends and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            reason = "stop"
        elif len(live.ids) >= sampling.max_tokens:
            reason = "length"
        text, reason = self._new_text(live, reason)
        self._send(live, Chunk(text, (token,), (logprob,), reason))
        return reason is None

    def _new_text(self, live: _Live, reason: FinishReason | None) -> tuple[str, FinishReason | None]:
        """Text to send now: whole characters, and nothing that may yet become part of a stop string."""
        assert self._tokenizer is not None
        decode = self._tokenizer.tokenizer.decode
        # Decoded together with the tokens before them: some tokenizers drop a leading space otherwise.
        old = decode(live.ids[live.window : live.shown], skip_special_tokens=True)
        new = decode(live.ids[live.window :], skip_special_tokens=True)[len(old) :]
        # A character may be spread over several tokens: wait for the rest of it.
        if new.endswith("\ufffd") and reason is None:
            return "", None
        live.text += new
        live.window, live.shown = live.shown, len(live.ids)
        stops = live.request.sampling.stop
        found = [at for stop in stops if (at := live.text.find(stop, live.sent)) >= 0]
        if found:
            live.text, reason = live.text[: min(found)], "stop"
        held = 0 if reason else max((len(stop) - 1 for stop in stops), default=0)
        end = max(live.sent, len(live.text) - held)
        begin, live.sent = live.sent, end
        return live.text[begin:end], reason

    def _send(self, live: _Live, item: Chunk | EngineError) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(live.queue.put_nowait, item)
        except RuntimeError:  # the loop is gone, and with it the listener
            live.aborted = True

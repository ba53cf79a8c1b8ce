"""The child of `submission.prm.vllm_scorer`: one vLLM engine that reads logits at given places of sequences.

Run as `python -m submission.prm.vllm_child`. Framed JSON each way (`submission.frames`): first
{"folder", "head", "context", "settings"} in and {"ready": true} or {"error"} out. Then {"sequences": ids,
"wanted": places, "fresh": bool} in and {"rows"} out: of each sequence, a wanted place's logits (of `logprob`:
its log-probability). It is null for a place that came out of the prefix cache, unless `fresh` forbids that.
{"do": "sleep"} gives the GPU's memory back and {"do": "wake"} takes it again; {"done": true} out.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from submission.engines.child_main import follow_parent
from submission.engines.vllm_engine import engine_arguments, prepare_environment
from submission.frames import Channel, ClosedError
from submission.offline import go_offline
from submission.settings import EngineSettings

Rows = list[list[Any]]
Answerer = Callable[[dict[str, Any]], dict[str, Any]]
Reader = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]], bool], Rows]
_ASYNC_ONLY = ("enable_log_requests", "stream_interval")


def main() -> None:
    """Serve until the parent closes its end."""
    follow_parent()  # in the midst of a long batch nobody reads the pipe
    # The protocol keeps the real stdout; what a library prints goes to the log.
    channel = Channel(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    try:
        setup = channel.receive()
        try:
            answer = _load(setup)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to tell
            channel.send({"error": f"{type(error).__name__}: {error}"})
            return
        channel.send({"ready": True})
        while True:
            question = channel.receive()
            try:
                said = answer(question)
            except Exception as error:  # noqa: BLE001 - the same
                channel.send({"error": f"{type(error).__name__}: {error}"})
                return
            channel.send(said)
    except ClosedError:
        return


def _load(setup: dict[str, Any]) -> Answerer:
    go_offline()
    settings = EngineSettings.parse(setup["settings"], "settings")
    prepare_environment(settings)
    # This process is the engine's own: a second one would only be one more to end.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM
    from vllm.config import PoolerConfig

    context = int(setup["context"])
    logprob = setup["head"] == "logprob"
    arguments = engine_arguments(Path(setup["folder"]), settings, context + logprob)
    for name in _ASYNC_ONLY:
        arguments.pop(name, None)
    if logprob:
        llm = LLM(**arguments)
        return _answerer(llm, _prompt_logprobs(llm))
    # Every token's row, and the places counted by us: step pooling would search for the separator's id.
    pooler = PoolerConfig(task="token_classify", tok_pooling_type="ALL")
    llm = LLM(**arguments, runner="pooling", pooler_config=pooler)
    return _answerer(llm, _token_logits(llm))


def _answerer(llm: Any, read: Reader) -> Answerer:
    def answer(question: dict[str, Any]) -> dict[str, Any]:
        match question.get("do"):
            case "sleep":
                llm.sleep(level=1)
            case "wake":
                llm.wake_up()
            case _:
                return {"rows": read(question["sequences"], question["wanted"], question["fresh"])}
        return {"done": True}

    return answer


def _token_logits(llm: Any) -> Reader:
    from vllm import PoolingParams

    def read(sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], fresh: bool) -> Rows:
        prompts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        params = PoolingParams(use_activation=False, skip_reading_prefix_cache=fresh)
        outputs = llm.encode(prompts, pooling_params=params, pooling_task="token_classify", use_tqdm=False)
        found: Rows = []
        for ids, places, output in zip(sequences, wanted, outputs, strict=True):
            rows = output.outputs.data
            # What came out of the prefix cache has no rows: those that there are belong to the end.
            cached = len(ids) - len(rows)
            found.append([rows[at - cached].tolist() if at >= cached else None for at in places])
        return found

    return read


def _prompt_logprobs(llm: Any) -> Reader:
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)

    def read(sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], fresh: bool) -> Rows:
        del fresh  # vLLM never reads the cache where log-probabilities of the prompt are asked for
        prompts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [
            [output.prompt_logprobs[at][ids[at]].logprob for at in places]
            for ids, places, output in zip(sequences, wanted, outputs, strict=True)
        ]

    return read


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    follow_parent()

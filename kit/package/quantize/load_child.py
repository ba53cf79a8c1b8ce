"""The child of `kit.package.quantize.load`: loads a checkpoint in vLLM, reads rows, writes a few tokens.

Run as `python -m kit.package.quantize.load_child`, with {"folder", "rows": [[ids, begin]], "context",
"dtype"} as JSON on standard input; {"nll", "tokens", "completions", "version"} comes out as the last line of
standard output.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from submission.engines.vllm_engine import engine_arguments, prepare_environment
from submission.offline import go_offline
from submission.settings import EngineSettings

NEW_TOKENS = 16
_ASYNC_ONLY = ("enable_log_requests", "stream_interval")


def main() -> None:
    """Answer the one question on standard input."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what a library prints goes to the log
        question = json.load(sys.stdin)
        out.write(
            json.dumps(
                read(Path(question["folder"]), question["rows"], question["context"], question["dtype"])
            )
            + "\n"
        )


def read(folder: Path, rows: list[tuple[list[int], int]], context: int, dtype: Any) -> dict[str, Any]:
    """Mean negative log-probability (nats) of the rows' judged tokens, and greedy completions."""
    go_offline()
    settings = EngineSettings(cpu_kv_cache_gib=1, dtype=dtype)
    prepare_environment(settings)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams, __version__

    arguments = engine_arguments(folder, settings, context)
    for name in _ASYNC_ONLY:
        arguments.pop(name, None)
    llm: Any = LLM(**arguments)
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids, _ in rows], params, use_tqdm=False)
    nll, tokens = 0.0, 0
    for (ids, begin), output in zip(rows, outputs, strict=True):
        for place in range(begin, len(ids)):
            nll -= output.prompt_logprobs[place][ids[place]].logprob
            tokens += 1
    greedy = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, detokenize=False)
    prompts = [{"prompt_token_ids": ids[:begin]} for ids, begin in rows if begin + NEW_TOKENS < context]
    written = llm.generate(prompts, greedy, use_tqdm=False)
    return {
        "nll": nll / tokens,
        "tokens": tokens,
        "completions": [list(output.outputs[0].token_ids) for output in written],
        "version": __version__,
    }


if __name__ == "__main__":
    main()

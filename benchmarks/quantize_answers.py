"""The child of `benchmarks.quantize`: greedy completions of problems by vLLM, one engine a process.

Run as `python -m benchmarks.quantize_answers`, with {"folder", "prompts": [ids], "new_tokens", "dtype"} as
JSON on standard input; a list of texts comes out as the last line of standard output.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from submission.engines.vllm_engine import engine_arguments, prepare_environment
from submission.offline import go_offline
from submission.settings import EngineSettings


def main() -> None:
    """Answer the one question on standard input."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        question = json.load(sys.stdin)
        out.write(json.dumps(answers(question)) + "\n")


def answers(question: dict[str, Any]) -> list[str]:
    """One text a prompt."""
    go_offline()
    settings = EngineSettings(cpu_kv_cache_gib=1, dtype=question["dtype"], max_num_seqs=64)
    prepare_environment(settings)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    prompts, new = question["prompts"], int(question["new_tokens"])
    arguments = engine_arguments(Path(question["folder"]), settings, max(map(len, prompts)) + new)
    for name in ("enable_log_requests", "stream_interval"):
        arguments.pop(name, None)
    arguments["skip_tokenizer_init"] = False
    llm: Any = LLM(**arguments)
    params = SamplingParams(max_tokens=new, temperature=0.0)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    return [output.outputs[0].text for output in outputs]


if __name__ == "__main__":
    main()

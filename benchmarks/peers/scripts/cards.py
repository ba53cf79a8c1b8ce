"""Step scores by the loop that the card of Qwen2.5-Math-PRM shows, for a token classifier.

Settings: `folder` of the checkpoint, `separator` between steps, `threads` of torch. Requests:
{"problem": text, "candidates": steps of each}; the reply has a row of `scores` for each candidate, and the
`seconds` of all.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PACKAGES = ("transformers", "torch")


@contextmanager
def opened(settings: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Candidates to scores."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    torch.set_num_threads(settings["threads"])
    folder = settings["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForTokenClassification.from_pretrained(
        folder, dtype="auto" if device == "cuda" else torch.float32, local_files_only=True
    )
    model.eval().to(device)
    separator = tokenizer.convert_tokens_to_ids(settings["separator"])

    def answer(request: dict[str, Any]) -> Any:
        began, scores = time.perf_counter(), []
        for steps in request["candidates"]:
            messages = [
                {"role": "user", "content": request["problem"]},
                {
                    "role": "assistant",
                    "content": settings["separator"].join(steps) + settings["separator"],
                },
            ]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
            ids = tokenizer.encode(text, return_tensors="pt", add_special_tokens=False).to(device)
            with torch.no_grad():
                logits = model(input_ids=ids).logits
            scores.append(logits.softmax(-1)[0, ids[0] == separator, 1].tolist())
        return {"scores": scores, "seconds": time.perf_counter() - began}

    yield answer

"""Forms of checkpoint that score steps, described by a `prm.json` in the folder, or told from its config.

    head                  checkpoint                    log-odds that a step is right
    token_classification  ...ForTokenClassification     of `positive_label`, at the step's end
    process_reward        Qwen2ForProcessRewardModel    of the label 1, at the step's end
    logprob               ...ForCausalLM                sum of log p of the tokens of the span

`process_reward` is Qwen2.5-Math-PRM's (Zhang et al. 2025, arXiv 2501.07301): two layers on top of the model.
The score is sigmoid(scale * x + bias), where x is the last column; scale 1 and bias 0 leave a classifier's
own probability (sigmoid of one label, softmax over several) as it is.
"""

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from submission.checkpoint import read_json
from submission.prm.aggregate import Aggregate
from submission.recipes import Recipe

PRM_FILE = "prm.json"
EXTRA = "<extra_0>"
"""The separator of the Qwen PRMs; models without it were trained on paragraphs."""
PARAGRAPH = "\n\n"
QWEN_PRM = "Qwen2ForProcessRewardModel"
QWEN_SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."

Head = Literal["token_classification", "process_reward", "logprob"]
_ARCHITECTURES: dict[Head, str] = {
    "token_classification": "ForTokenClassification",
    "process_reward": QWEN_PRM,
    "logprob": "ForCausalLM",
}


class PrmConfig(Recipe):
    """How a checkpoint scores steps: the contents of `prm.json`."""

    model_config = ConfigDict(strict=True)

    format: Literal[1] = 1
    head: Head = "token_classification"
    separator: str = PARAGRAPH
    """Text after each step; a classifier is read at its last token. May be empty: read at the step's last."""
    span: Literal["step", "prefix"] = "step"
    """`logprob` only: the tokens that are summed, of that step or of all steps so far."""
    scale: float = 1.0
    """Above 0: higher log-odds must stay the better ones."""
    bias: float = 0.0
    system_prompt: str = ""
    """System turn before the problem; none where empty."""
    instruction: str = ""
    """Put behind the problem in the user's turn, after a blank line; none where empty."""
    aggregate: Aggregate = "min"
    """How the steps' scores become the candidate's; chosen by evaluation."""
    positive_label: int = Field(default=1, ge=0)
    """Label that means: right. With one label only the logit itself is the log-odds."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.scale <= 0:
            raise ValueError(f"scale {self.scale:g} must be above 0")
        if self.span == "prefix" and self.head != "logprob":
            raise ValueError(f"span 'prefix' goes with the head 'logprob', not {self.head!r}")
        return self


def read_prm(folder: Path) -> PrmConfig:
    """The form of a checkpoint: its `prm.json`, else what its `config.json` tells. Loads no weights.

    Raises:
        ValueError: a file cannot be read, the form is unknown, or the two do not go together.
    """
    config = read_json(folder / "config.json")
    architecture = _architecture(folder, config)
    labels = _labels(config)
    path = folder / PRM_FILE
    if path.exists():
        data = read_json(path)
        if not isinstance(data, dict):
            raise ValueError(f"{path} is not a JSON object")
        form = PrmConfig.parse(data, str(path))
        if not architecture.endswith(_ARCHITECTURES[form.head]):
            raise ValueError(
                f"{path}: the head {form.head!r} wants a {_ARCHITECTURES[form.head]} checkpoint, and "
                f"config.json names {architecture}"
            )
        if form.head != "logprob" and labels > 1 and form.positive_label >= labels:
            raise ValueError(f"{path}: positive_label {form.positive_label}, but there are {labels} labels")
        return form
    if architecture == QWEN_PRM:
        return PrmConfig(head="process_reward", separator=EXTRA, system_prompt=QWEN_SYSTEM_PROMPT)
    if not architecture.endswith(_ARCHITECTURES["token_classification"]):
        raise ValueError(
            f"PRM {folder}: architecture {architecture} is not a ...ForTokenClassification checkpoint or "
            f"{QWEN_PRM}; a ...ForCausalLM needs a {PRM_FILE} with the head 'logprob'"
        )
    if labels > 2:
        raise ValueError(
            f"PRM {folder}: {labels} labels; say in a {PRM_FILE} which positive_label means right"
        )
    return PrmConfig(separator=EXTRA if _knows(folder, EXTRA) else PARAGRAPH)


def check_prm(folder: Path) -> PrmConfig:
    """Refuse a folder that no scorer here can serve, before anything is loaded; see `read_prm`."""
    return read_prm(Path(folder))


def score_of(log_odds: float, form: PrmConfig) -> float:
    """sigmoid(scale * log-odds + bias); NaN where the log-odds are not a number."""
    x = form.scale * log_odds + form.bias
    if math.isnan(x):
        return math.nan
    # exp of a large number overflows; its reciprocal does not.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _architecture(folder: Path, config: Any) -> str:
    kinds = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(kinds, list) or not kinds or not isinstance(kinds[0], str):
        raise ValueError(f"PRM {folder}: config.json names no architecture: {kinds!r}")
    return kinds[0]


def _labels(config: dict[str, Any]) -> int:
    """Number of labels, 2 where the config says nothing, as transformers has it."""
    named = config.get("id2label")
    return len(named) if isinstance(named, dict) else int(config.get("num_labels") or 2)


def _knows(folder: Path, token: str) -> bool:
    """Whether the tokenizer's files list this text as a token of its own."""
    mark = f'"{token}"'.encode()
    files = [folder / name for name in ("tokenizer.json", "added_tokens.json", "tokenizer_config.json")]
    return any(mark in file.read_bytes() for file in files if file.is_file())

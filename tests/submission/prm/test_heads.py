"""What a checkpoint's folder says of itself, and what is refused before anything is loaded."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from submission.prm.heads import QWEN_PRM, QWEN_SYSTEM_PROMPT, PrmConfig, check_prm, read_prm, score_of


def folder_of(path: Path, architecture: str, form: Any = None, **config: Any) -> Path:
    (path / "config.json").write_text(json.dumps({"architectures": [architecture], **config}))
    if form is not None:
        (path / "prm.json").write_text(json.dumps(form))
    return path


def test_told_from_the_config(tmp_path: Path) -> None:
    assert read_prm(folder_of(tmp_path, "Qwen2ForTokenClassification")) == PrmConfig(
        head="token_classification", separator="\n\n"
    )
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"content": "<extra_0>"}]}')
    assert read_prm(tmp_path).separator == "<extra_0>"
    one = folder_of(tmp_path, "LlamaForTokenClassification", id2label={"0": "LABEL_0"})
    assert read_prm(one).head == "token_classification"
    assert read_prm(folder_of(tmp_path, QWEN_PRM)) == PrmConfig(
        head="process_reward", separator="<extra_0>", system_prompt=QWEN_SYSTEM_PROMPT
    )


def test_said_by_its_own_file(tmp_path: Path) -> None:
    form = {"format": 1, "head": "logprob", "span": "prefix", "scale": 0.5, "bias": 1, "aggregate": "last"}
    found = check_prm(folder_of(tmp_path, "Qwen2ForCausalLM", form))
    assert (found.head, found.span, found.scale, found.bias, found.aggregate) == (
        "logprob",
        "prefix",
        0.5,
        1.0,
        "last",
    )
    (tmp_path / "prm.json").write_text(found.model_dump_json())
    assert read_prm(tmp_path) == found


@pytest.mark.parametrize(
    ("architecture", "form", "message"),
    [
        ("LlamaForCausalLM", None, "LlamaForCausalLM.*prm.json with the head 'logprob'"),
        ("Qwen2ForTokenClassification", {"head": "logprob"}, "wants a ForCausalLM checkpoint"),
        ("Qwen2ForTokenClassification", {"format": 2}, "format"),
        ("Qwen2ForTokenClassification", {"seperator": "x"}, "did you mean 'separator'"),
        ("Qwen2ForTokenClassification", {"positive_label": "1"}, "positive_label"),
        ("Qwen2ForTokenClassification", {"positive_label": 2}, "positive_label 2, but there are 2 labels"),
        ("Qwen2ForTokenClassification", {"span": "prefix"}, "span 'prefix' goes with the head 'logprob'"),
        ("Qwen2ForTokenClassification", [], "not a JSON object"),
        ("Qwen2ForCausalLM", {"head": "logprob", "scale": 0}, "scale 0 must be above 0"),
        ("Qwen2ForCausalLM", {"head": "logprob", "bias": "high"}, "bias"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, architecture: str, form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prm(folder_of(tmp_path, architecture, form))


def test_three_labels_need_to_be_told_apart(tmp_path: Path) -> None:
    names = {str(label): str(label) for label in range(3)}
    folder = folder_of(tmp_path, "Qwen2ForTokenClassification", id2label=names)
    with pytest.raises(ValueError, match="3 labels"):
        check_prm(folder)
    (folder / "prm.json").write_text('{"positive_label": 0}')
    assert check_prm(folder).positive_label == 0


def test_broken_configs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        check_prm(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(ValueError, match=r"config\.json"):
        check_prm(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": []}')
    with pytest.raises(ValueError, match="names no architecture"):
        check_prm(tmp_path)


def test_scores_are_calibrated_log_odds() -> None:
    plain = PrmConfig()
    assert score_of(0.0, plain) == 0.5
    assert score_of(math.log(3), plain) == pytest.approx(0.75)
    assert score_of(-math.log(3), plain) == pytest.approx(0.25)
    assert score_of(1.0, PrmConfig(scale=2.0, bias=-2.0)) == 0.5
    assert (score_of(1e9, plain), score_of(-1e9, plain), score_of(-math.inf, plain)) == (1.0, 0.0, 0.0)
    assert math.isnan(score_of(math.nan, plain))

"""The shared pass against the plain one, and both against what a model card would compute."""

import asyncio
import itertools
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from submission.engines.base import EngineError
from submission.prm.scorer import CancelledError
from submission.prm.transformers_scorer import TransformersScorer
from tests.submission.prm.checkpoints import CANDIDATES, classifier, policy, process_reward
from tests.tiny import CHAT_TEMPLATE

PROBLEM = "What is 1+1, doubled?"
FORMS: dict[str, Callable[[Path], Path]] = {
    "one label": lambda path: classifier(path, 1),
    "two labels": classifier,
    "grouped heads": lambda path: classifier(path, architecture="llama", num_key_value_heads=1),
    "sliding windows": lambda path: classifier(
        path, use_sliding_window=True, sliding_window=16, max_window_layers=0
    ),
    "process reward": process_reward,
    "log-probability": policy,
    "prefix": lambda path: policy(path, span="prefix", scale=0.005),
}


def started(folder: Path, **options: Any) -> TransformersScorer:
    scorer = TransformersScorer(folder, **options)
    asyncio.run(scorer.start())
    return scorer


def gap(first: list[list[float]], second: list[list[float]]) -> float:
    assert [len(row) for row in first] == [len(row) for row in second]
    pairs = zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    return max(abs(one - other) for one, other in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_sharing_changes_no_score(tmp_path: Path, name: str) -> None:
    folder = FORMS[name](tmp_path)
    plain = started(folder, shared=False).step_scores_many(PROBLEM, CANDIDATES)
    assert [len(row) for row in plain] == [3, 3, 2, 1, 3, 0, 29]
    values = list(itertools.chain(*plain))
    assert all(0 <= value <= 1 for value in values) and max(values) - min(values) > 0.02
    assert plain[0][:2] == plain[1][:2] and plain[0] == plain[4]
    for chunk in (7, 64, 100_000):
        scorer = started(folder, chunk=chunk)
        assert scorer.shares == (name != "sliding windows")
        assert gap(scorer.step_scores_many(PROBLEM, CANDIDATES), plain) < 1e-5
        assert gap(asyncio.run(scorer.score_steps(PROBLEM, CANDIDATES[::-1])), plain[::-1]) < 1e-5


def chat_ids(folder: Path, system: str, answer: str) -> Any:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": PROBLEM}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text + answer, add_special_tokens=False)["input_ids"]
    return (
        torch.tensor([ids]),
        tokenizer.convert_tokens_to_ids("<extra_0>"),
        len(tokenizer(text)["input_ids"]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("labels", [1, 2])
def test_a_classifier_scores_as_its_card_says(tmp_path: Path, labels: int) -> None:
    import torch
    from transformers import AutoModelForTokenClassification

    folder = classifier(tmp_path, labels)
    got = started(folder).step_scores(PROBLEM, "It is two.\n\nSo \\boxed{4}.")
    ids, mark, _ = chat_ids(folder, "", "It is two.<extra_0>So \\boxed{4}.<extra_0>")
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(ids).logits[0][ids[0] == mark]
    expected: Any = torch.sigmoid(logits[:, 0]) if labels == 1 else torch.softmax(logits, -1)[:, 1]
    assert got == pytest.approx(expected.tolist(), abs=1e-6) and len(got) == 2


@pytest.mark.slow
def test_the_qwen_prm_scores_as_its_card_says(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen2ForCausalLM

    folder = process_reward(tmp_path)
    got = started(folder).step_scores(PROBLEM, "It is two.\n\nSo \\boxed{4}.")
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    ids, mark, _ = chat_ids(folder, system, "It is two.<extra_0>So \\boxed{4}.<extra_0><|im_end|>\n")
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weights = load_file(folder / "model.safetensors")
    with torch.inference_mode():
        hidden = model.model(ids).last_hidden_state[0][ids[0] == mark]
        inner = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
        logits = inner @ weights["score.2.weight"].T + weights["score.2.bias"]
    assert got == pytest.approx(torch.softmax(logits, -1)[:, 1].tolist(), abs=1e-6) and len(got) == 2


@pytest.mark.slow
@pytest.mark.parametrize("span", ["step", "prefix"])
def test_a_policy_scores_by_the_log_probability_of_its_steps(tmp_path: Path, span: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = policy(tmp_path, span=span, scale=0.01, bias=2.0)
    first, second = "It is two.", "So 4."
    got = started(folder).step_scores(PROBLEM, f"{first}\n\n{second}")
    ids, _, prompt = chat_ids(folder, "", f"{first}\n\n{second}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    taken = logprobs.gather(1, ids[0, 1:, None])[:, 0]
    # A byte is a token; the separator between the steps is nobody's.
    end = prompt + len(first)
    sums = [float(taken[prompt - 1 : end - 1].sum()), float(taken[end + 1 :].sum())]
    odds = [0.01 * (sums[0] * (span == "prefix") * place + sums[place]) + 2.0 for place in (0, 1)]
    assert got == pytest.approx([1 / (1 + math.exp(-x)) for x in odds], abs=1e-5)


@pytest.mark.slow
def test_beyond_the_context(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    many = "\n\n".join(f"Step {number}: " + "so " * 20 for number in range(30))
    windows, last = started(folder), started(folder, long="last")
    assert len(windows.step_scores(PROBLEM, many)) == 30
    fit = last.step_scores(PROBLEM, many)
    assert 1 < len(fit) < 10
    assert len(windows.step_scores(PROBLEM, "y" * 10_000)) == 1
    given = last.scores_of_steps(PROBLEM, [["a", "b\n\nc", "d"], ["a", "b"]])
    assert len(given[0]) == 3
    assert gap(given[1:], [last.step_scores(PROBLEM, "a\n\nb")]) < 1e-6


@pytest.mark.slow
def test_broken_weights_score_nan_and_nothing_else_is_lost(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = classifier(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["score.bias"][0] = math.nan
    save_file(tensors, path, {"format": "pt"})
    scores = started(folder).step_scores_many(PROBLEM, CANDIDATES[:2])
    assert [len(row) for row in scores] == [3, 3]
    assert all(math.isnan(value) for row in scores for value in row)


@pytest.mark.slow
def test_what_overflows_in_one_candidate_leaves_the_others_alone(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder = classifier(tmp_path)
    sane = started(folder).step_scores_many(PROBLEM, CANDIDATES)
    (token,) = AutoTokenizer.from_pretrained(folder)("~")["input_ids"]
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][token] = math.inf
    save_file(tensors, path, {"format": "pt"})
    scores = started(folder).step_scores_many(PROBLEM, [*CANDIDATES, "First, 1 + 1 = 2.\n\nThen ~ 4."])
    assert gap(scores[:-1], sane) < 1e-5
    assert len(scores[-1]) == 2 and math.isnan(scores[-1][1])


@pytest.mark.slow
def test_a_checkpoint_that_lacks_weights_does_not_start(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name, make, gone in (
        ("classifier", classifier, "score.weight"),
        ("process", process_reward, "score.2.bias"),
    ):
        folder = make(tmp_path / name)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        del tensors[gone]
        save_file(tensors, path, {"format": "pt"})
        with pytest.raises(EngineError, match=gone.replace(".", r"\.")):
            started(folder)


@pytest.mark.slow
def test_an_encoder_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForTokenClassification

    folder = classifier(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    shape = BertConfig(vocab_size=300, **sizes)
    BertForTokenClassification(shape).save_pretrained(folder)
    with pytest.raises(EngineError, match="no layer `score`"):
        started(folder)


@pytest.mark.slow
def test_nobody_waits_for_a_cancelled_pass(tmp_path: Path) -> None:
    scorer = started(classifier(tmp_path), chunk=16)
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError):
        scorer.step_scores_many(PROBLEM, CANDIDATES, stop)
    assert scorer.step_scores_many(PROBLEM, ["", "</think>"]) == [[], []]
    asyncio.run(scorer.close())


def test_a_chunk_has_a_token() -> None:
    with pytest.raises(ValueError, match="chunk 0"):
        TransformersScorer(Path("x"), chunk=0)


def test_a_folder_without_a_model_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(EngineError, match="LlamaForCausalLM"):
        asyncio.run(TransformersScorer(tmp_path).start())

"""The teacher's pass against a plain forward pass over each trace alone."""

from typing import Any

import pytest
import torch

from kit.traces.teacher_pass import row_order, score, top_k_of
from tests.kit.traces.made import make_teacher

ROWS = [([5, 6, 7], [8, 9, 10, 11, 12]), ([1], [2]), ([3] * 20, [4, 5] * 9), ([9, 9], [1, 2, 3])]
VOCABULARY = 270


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoModelForCausalLM

    folder = make_teacher(tmp_path_factory.mktemp("teacher"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Sharper than random weights are, so that the order of the top k is not a matter of rounding.
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    return model


@pytest.mark.parametrize(("batch_tokens", "positions"), [(10_000, 10_000), (60, 7), (1, 1)])
def test_any_batching_and_chunking_gives_the_plain_forward_pass(
    model: Any, batch_tokens: int, positions: int
) -> None:
    temperatures = (1.0, 2.0, 0.5)
    found = list(
        score(
            model,
            ROWS,
            k=8,
            temperatures=temperatures,
            vocab_size=VOCABULARY,
            batch_tokens=batch_tokens,
            positions=positions,
        )
    )
    assert [scored.index for scored in found] == row_order(ROWS) == [1, 3, 0, 2]
    for scored in found:
        prompt, completion = ROWS[scored.index]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1, :VOCABULARY]
        logprobs = torch.log_softmax(logits.double(), -1)
        top = logprobs.topk(8, -1)
        assert scored.ids.shape == (len(completion), 8)
        assert scored.ids.tolist() == top.indices.tolist()
        torch.testing.assert_close(torch.from_numpy(scored.logprobs).double(), top.values, atol=1e-4, rtol=0)
        for column, temperature in enumerate(temperatures):
            tempered = torch.softmax(logits.double() / temperature, -1)
            tail = 1 - tempered.gather(-1, top.indices).sum(-1)
            torch.testing.assert_close(
                torch.from_numpy(scored.tails[:, column]).double().exp(), tail, atol=1e-5, rtol=1e-3
            )


def test_the_whole_vocabulary_has_no_tail() -> None:
    ids, logprobs, tails = top_k_of(torch.tensor([[0.0, 2.0, 1.0]]), 3, (1.0, 2.0))
    assert ids.tolist() == [[1, 2, 0]]
    assert float(logprobs.exp().sum()) == pytest.approx(1)
    assert tails.tolist() == [[-float("inf")] * 2]


@pytest.mark.parametrize("row", [([], [1]), ([1], [])])
def test_a_trace_without_tokens_is_refused(model: Any, row: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="no prompt or completion ids"):
        list(score(model, [row], k=1, temperatures=(1.0,), vocab_size=VOCABULARY))

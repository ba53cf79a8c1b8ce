"""Log-probabilities at the temperature that was sampled at, and the bound on what top-p changes."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.losses.token_logprobs import token_logprobs
from kit.training.sampling import draw
from submission.engines.base import Sampling

torch = pytest.importorskip("torch")


def test_values_by_hand() -> None:
    # z / T = (0, ln 3) at T = 2: probabilities 1/4 and 3/4, entropy 1/4 ln 4 + 3/4 ln 4/3.
    logits = torch.tensor([[0.0, 2 * math.log(3.0)]], dtype=torch.float64)
    logprobs, entropies = token_logprobs(logits, torch.tensor([1]), 2.0, 2)
    assert float(logprobs[0]) == pytest.approx(math.log(0.75), abs=1e-15)
    expected = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert float(entropies[0]) == pytest.approx(expected, abs=1e-15)
    assert not entropies.requires_grad


def test_rows_of_the_head_that_are_no_tokens_do_not_count() -> None:
    logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([logits, torch.full((3, 2), 50.0, dtype=torch.float64)], dim=1)
    targets = torch.tensor([0, 3, 6])
    for ours, theirs in zip(
        token_logprobs(logits, targets, 0.7, 7), token_logprobs(padded, targets, 0.7, 7), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    targets = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda z: token_logprobs(z, targets, 1.3, 5)[0], (logits,))


def test_impossible_tokens_leave_the_entropy_finite() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    logprobs, entropies = token_logprobs(logits, torch.tensor([2]), 1.0, 3)
    assert float(logprobs[0]) == pytest.approx(-math.log(2))
    assert float(entropies[0]) == pytest.approx(math.log(2))


def test_low_precision_is_computed_in_float32() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(2))
    found, _ = token_logprobs(logits.bfloat16(), torch.tensor([1, 2]), 1.0, 9)
    assert found.dtype == torch.float32
    wanted = torch.log_softmax(logits.bfloat16().float(), -1)[[0, 1], [1, 2]]
    torch.testing.assert_close(found, wanted)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 2.0), st.floats(0.05, 0.99), st.floats(0, 1, exclude_max=True))
def test_top_p_moves_a_log_probability_by_its_logarithm_at_most(
    seed: int, temperature: float, top_p: float, uniform: float
) -> None:
    logits = 3 * torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(temperature=temperature, top_p=top_p)
    token, drawn = draw(logits, torch.tensor([uniform], dtype=torch.float64), sampling)
    whole, _ = token_logprobs(logits, token, temperature, 12)
    gained = float(drawn[0] - whole[0])
    assert -1e-9 <= gained <= -math.log(top_p) + 1e-9

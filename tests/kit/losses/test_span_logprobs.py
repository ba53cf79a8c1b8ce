import pytest
import torch

from kit.losses.span_logprobs import chunked_logprobs


def given(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(0, 11, (count,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_values_and_gradients_are_the_plain_heads(chunk: int) -> None:
    hidden, weight, targets = given(7)
    scale = torch.linspace(-2, 3, 7, dtype=torch.float64)
    plain = (hidden @ weight.t()).log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    expected = torch.autograd.grad((plain * scale).exp().sum(), (hidden, weight))
    found = chunked_logprobs(hidden, weight, targets, chunk)
    grads = torch.autograd.grad((found * scale).exp().sum(), (hidden, weight))
    assert torch.allclose(found, plain, rtol=1e-12)
    for ours, theirs in zip(grads, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-13)


def test_finite_differences() -> None:
    hidden, weight, targets = given(4, seed=1)
    assert torch.autograd.gradcheck(lambda h, w: chunked_logprobs(h, w, targets, 3), (hidden, weight))


def test_hand_value() -> None:
    """Logits 0 and ln 3: probabilities 1/4 and 3/4."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]).log().nan_to_num(neginf=0.0)
    found = chunked_logprobs(hidden.expand(2, 1), weight, torch.tensor([0, 1]), 8)
    assert found.exp().tolist() == pytest.approx([0.25, 0.75])


def test_no_token_has_a_zero_gradient() -> None:
    hidden, weight, targets = given(0)
    chunked_logprobs(hidden, weight, targets, 4).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_low_precision_is_computed_wide() -> None:
    hidden, weight, targets = given(6, seed=2)
    low_hidden = hidden.detach().bfloat16().requires_grad_()
    low_weight = weight.detach().bfloat16().requires_grad_()
    found = chunked_logprobs(low_hidden, low_weight, targets, 2)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert low_weight.grad is not None
    assert low_weight.grad.dtype == torch.bfloat16
    assert torch.allclose(found.double(), chunked_logprobs(hidden, weight, targets, 2), atol=0.1)

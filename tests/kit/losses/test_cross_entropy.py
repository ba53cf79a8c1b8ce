"""Cross-entropy per token: values by hand, gradients by finite differences, dtypes."""

import math

import pytest
import torch

from kit.losses.cross_entropy import cross_entropy


def test_values_by_hand() -> None:
    # softmax of logs is the normalised odds: 1:2:5 and 3:1:4.
    logits = torch.tensor([[1.0, 2.0, 5.0], [3.0, 1.0, 4.0]], dtype=torch.float64).log()
    loss = cross_entropy(logits, torch.tensor([1, 0]))
    assert loss.tolist() == pytest.approx([math.log(8 / 2), math.log(8 / 3)], abs=1e-12)


def test_gradient_is_softmax_less_one_hot() -> None:
    logits = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64).log().requires_grad_()
    cross_entropy(logits, torch.tensor([1])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [pytest.approx([1 / 8, 2 / 8 - 1, 5 / 8], abs=1e-12)]


def test_gradient_by_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 3])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets), (logits,))


def test_low_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 11)
    targets = torch.arange(5)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = logits.to(dtype)
        loss = cross_entropy(rounded, targets)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, cross_entropy(rounded.float(), targets))
    assert cross_entropy(logits.double(), targets).dtype == torch.float64


def test_large_and_excluded_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, 0.0, -math.inf], [-1e4, -1e4, -math.inf]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1, 0]))
    assert loss.tolist() == pytest.approx([1e4, math.log(2)])
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 2].tolist() == [0, 0]
    assert bool(logits.grad.isfinite().all())


def test_no_target_is_ignored() -> None:
    with pytest.raises((RuntimeError, IndexError)):
        cross_entropy(torch.zeros(1, 4), torch.tensor([-100]))


def test_no_tokens_is_an_empty_loss() -> None:
    assert cross_entropy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0,)

"""KL estimators: values by hand, finite differences, expectations and gradients by enumeration."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kit.losses.kl import KLKind, kl_penalty

KINDS: tuple[KLKind, ...] = get_args(KLKind)


def policy_and_reference() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy over five tokens, with gradient, and logprobs of a reference not near to it."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1, -2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.3, 0.15, 0.05, 0.4], dtype=torch.float64).log()
    return logits, reference


def expected_gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Of E_p[loss] with p's own part in the expectation left out, as in a batch of drawn tokens."""
    probabilities = logits.detach().softmax(0)
    (result,) = torch.autograd.grad((probabilities * loss).sum(), logits, retain_graph=True)
    return result


def test_values_by_hand() -> None:
    # p = 1/2, q = 1/4: d = log 2. p = 1/4, q = 1/2: d = -log 2.
    new = torch.tensor([0.5, 0.25], dtype=torch.float64).log()
    reference = torch.tensor([0.25, 0.5], dtype=torch.float64).log()
    two = math.log(2)
    expected: dict[KLKind, list[float]] = {
        "k1": [two, -two],
        "k2": [two**2 / 2, two**2 / 2],
        "k3": [1 / 2 + two - 1, 2 - two - 1],
    }
    for kind in KINDS:
        assert kl_penalty(new, reference, kind).tolist() == pytest.approx(expected[kind], abs=1e-15), kind


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: KLKind) -> None:
    logits, reference = policy_and_reference()
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x.log_softmax(0), reference, kind), (logits,))


# --- what the module's table says --------------------------------------------------------------------


def test_expected_values() -> None:
    logits, reference = policy_and_reference()
    logprobs = logits.detach().log_softmax(0)
    probabilities = logprobs.exp()
    kl = (probabilities * (logprobs - reference)).sum()
    assert kl > 0.5
    for kind in ("k1", "k3"):
        assert torch.allclose((probabilities * kl_penalty(logprobs, reference, kind)).sum(), kl, rtol=1e-13)
    k2 = (probabilities * kl_penalty(logprobs, reference, "k2")).sum()
    assert abs(k2 - kl) > 0.1 * kl


def test_k2_is_right_to_second_order() -> None:
    logits, _ = policy_and_reference()
    logprobs = logits.detach().log_softmax(0)
    probabilities = logprobs.exp()
    direction = torch.tensor([1.0, -0.5, 0.2, 0.7, -1.0], dtype=torch.float64)
    errors = []
    for size in (1e-2, 1e-3):
        reference = (logits.detach() + size * direction).log_softmax(0)
        kl = (probabilities * (logprobs - reference)).sum()
        errors.append(abs(float((probabilities * kl_penalty(logprobs, reference, "k2")).sum() - kl)))
    # A tenth of the distance, a thousandth of the error.
    assert errors[1] / errors[0] == pytest.approx(1e-3, rel=0.1)


def test_expected_gradients() -> None:
    logits, reference = policy_and_reference()
    logprobs = logits.log_softmax(0)
    (reverse,) = torch.autograd.grad(
        (logprobs.exp() * (logprobs - reference)).sum(), logits, retain_graph=True
    )
    (forward,) = torch.autograd.grad(
        (reference.exp() * (reference - logprobs)).sum(), logits, retain_graph=True
    )
    assert (reverse - forward).abs().max() > 0.1
    loss = {kind: kl_penalty(logprobs, reference, kind) for kind in KINDS}
    assert expected_gradient(loss["k1"], logits).abs().max() < 1e-15
    assert torch.allclose(expected_gradient(loss["k2"], logits), reverse, rtol=1e-12, atol=1e-15)
    assert torch.allclose(expected_gradient(loss["k3"], logits), forward, rtol=1e-12, atol=1e-15)
    # k1 as a cost in the policy gradient
    as_reward = expected_gradient(loss["k1"].detach() * logprobs, logits)
    assert torch.allclose(as_reward, reverse, rtol=1e-12, atol=1e-15)


def test_k3_by_drawn_tokens() -> None:
    logits, reference = policy_and_reference()
    logprobs = logits.detach().log_softmax(0)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(logprobs.exp(), 200_000, replacement=True, generator=generator)
    values = kl_penalty(logprobs[drawn], reference[drawn], "k3")
    kl = (logprobs.exp() * (logprobs - reference)).sum()
    error = values.std() / math.sqrt(len(drawn))
    assert abs(values.mean() - kl) < 4 * error < 0.05 * kl


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_models_have_exactly_nothing(dtype: torch.dtype) -> None:
    new = torch.tensor([-0.3, -7.123, -1e-9, 0.0], dtype=dtype, requires_grad=True)
    slopes: dict[KLKind, int] = {"k1": 1, "k2": 0, "k3": 0}
    for kind, slope in slopes.items():
        value = kl_penalty(new, new.detach().clone(), kind)
        assert value.tolist() == [0] * 4
        assert value.dtype == dtype
        (gradient,) = torch.autograd.grad(value.sum(), new)
        assert gradient.tolist() == [slope] * 4


def test_k3_keeps_its_digits_near_zero_in_float32() -> None:
    # k3 = d^2 / 2 - d^3 / 6 + ...; as exp(-d) - (-d) - 1 in float32 it would be 0 or 6e-8.
    new = torch.tensor([1e-3, -1e-4])
    value = kl_penalty(new, torch.zeros(2), "k3")
    assert value.tolist() == pytest.approx([5e-7 - 1e-9 / 6, 5e-9], rel=2e-3)


@given(difference=st.floats(-30, 30))
def test_k2_and_k3_are_not_negative(difference: float) -> None:
    new = torch.tensor([difference], dtype=torch.float64)
    for kind in ("k2", "k3"):
        assert kl_penalty(new, torch.zeros_like(new), kind).item() >= 0


def test_only_the_policy_gets_a_gradient_and_no_shape_is_broadcast() -> None:
    new = torch.zeros(3, requires_grad=True)
    reference = torch.ones(3, requires_grad=True)
    for kind in KINDS:
        loss = kl_penalty(new, reference, kind).sum()
        assert torch.autograd.grad(loss, reference, allow_unused=True) == (None,)
        with pytest.raises(AssertionError):
            kl_penalty(new, reference[:1], kind)

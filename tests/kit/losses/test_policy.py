"""Policy terms: values by hand, gradients by finite differences and by formula, clips, on-policy limits."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kit.losses.policy import (
    PolicyTerms,
    cispo,
    clipped_surrogate,
    sequence_mean,
    sequence_sum,
    sequence_surrogate,
)

Term = Callable[..., PolicyTerms]
TERMS: tuple[Term, ...] = (clipped_surrogate, cispo)

# Ratio, advantage: inside, above and below the range of 0.8..1.28, for both signs and for 0.
RATIOS = (1.0, 1.2, 1.5, 0.5, 1.0, 1.1, 1.5, 0.5, 1.5, 0.5)
ADVANTAGES = (2.0, 2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0, 0.0, 0.0)


def tokens(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logprobs with gradient, old logprobs, advantages."""
    old = torch.linspace(-3, -0.5, len(RATIOS), dtype=dtype)
    new = (old + torch.tensor(RATIOS, dtype=dtype).log()).requires_grad_()
    return new, old, torch.tensor(ADVANTAGES, dtype=dtype)


def gradient(loss: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    (result,) = torch.autograd.grad(loss.sum(), logprobs)
    return result


# --- clipped surrogate -------------------------------------------------------------------------------


def test_clipped_surrogate_by_hand() -> None:
    new, old, advantages = tokens()
    terms = clipped_surrogate(new, old, advantages)
    # A = 2: 2r up to r = 1.28, then 2.56 without gradient. A = -2: 2r down to r = 0.8, then 1.6.
    assert terms.loss.tolist() == pytest.approx([-2, -2.4, -2.56, -1, 2, 2.2, 3, 1.6, 0, 0], abs=1e-12)
    assert terms.ratio.tolist() == pytest.approx(list(RATIOS), abs=1e-12)
    assert terms.clipped.tolist() == [i in (2, 7) for i in range(10)]
    expected = [-2, -2.4, 0, -1, 2, 2.2, 3, 0, 0, 0]
    assert gradient(terms.loss, new).tolist() == pytest.approx(expected, abs=1e-12)
    assert not terms.ratio.requires_grad
    assert not terms.clipped.requires_grad


def test_clipped_surrogate_by_finite_differences() -> None:
    new, old, advantages = tokens()
    assert torch.autograd.gradcheck(lambda x: clipped_surrogate(x, old, advantages).loss, (new,))
    assert torch.autograd.gradcheck(
        lambda x: clipped_surrogate(x, old, advantages, clip_low=0.05, clip_high=0.6).loss, (new,)
    )


@given(
    log_ratios=st.lists(st.floats(-3, 3), min_size=1, max_size=8),
    advantage=st.floats(-5, 5),
    low=st.floats(0, 0.9),
    high=st.floats(0, 3),
)
def test_clipped_surrogate_is_the_papers_minimum(
    log_ratios: list[float], advantage: float, low: float, high: float
) -> None:
    new = torch.tensor(log_ratios, dtype=torch.float64)
    advantages = torch.full_like(new, advantage)
    loss = clipped_surrogate(new, torch.zeros_like(new), advantages, clip_low=low, clip_high=high).loss
    ratio = new.exp()
    expected = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    assert torch.allclose(loss, expected, rtol=1e-14, atol=0)


def test_gradient_on_policy_is_the_policy_gradient_by_enumeration() -> None:
    # J = E_p[A] has the gradient E_p[A grad log p]. Neither clip bites at ratio 1, nor does CISPO's.
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -0.5, 2.0, -3.0], dtype=torch.float64)
    logprobs = logits.log_softmax(0)
    (expected,) = torch.autograd.grad(-(logprobs.exp() * advantages).sum(), logits, retain_graph=True)
    still = torch.zeros(4, dtype=torch.float64)
    for terms in (
        clipped_surrogate(logprobs, logprobs.detach(), advantages),
        sequence_surrogate(logprobs, still, advantages, clip_low=3e-4, clip_high=4e-4),
        cispo(logprobs, logprobs.detach(), advantages, clip_low=1.0, clip_high=4.0),
    ):
        loss = (logprobs.detach().exp() * terms.loss).sum()
        (actual,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-14)


def test_off_policy_surrogate_without_clip_corrects_the_sampler_by_enumeration() -> None:
    # E_old[r A grad log p] = E_p[A grad log p].
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    advantages = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    logprobs = logits.log_softmax(0)
    (expected,) = torch.autograd.grad(-(logprobs.exp() * advantages).sum(), logits, retain_graph=True)
    terms = clipped_surrogate(logprobs, old, advantages, clip_low=1.0, clip_high=100.0)
    assert not terms.clipped.any()
    (actual,) = torch.autograd.grad((old.exp() * terms.loss).sum(), logits)
    assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-14)


# --- GSPO --------------------------------------------------------------------------------------------

LENGTHS = (3, 1, 4, 2)
SEGMENTS = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
# Sequence ratios e^0.1, e^0.5, e^-0.5, e^-0.5 against the range 0.8..1.28, with these advantages: free,
# clipped, clipped, free.
LOG_RATIOS = (0.1, 0.5, -0.5, -0.5)
SEQUENCE_ADVANTAGES = torch.tensor([1.5, 2.0, -1.0, 1.0], dtype=torch.float64)


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs with gradient and old logprobs: each sequence's mean log ratio is that of LOG_RATIOS."""
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(10, dtype=torch.float64, generator=generator) - 0.1
    noise = torch.randn(10, dtype=torch.float64, generator=generator)
    noise -= sequence_mean(noise, SEGMENTS, 4)
    new = old + noise + torch.tensor(LOG_RATIOS, dtype=torch.float64)[SEGMENTS]
    return new.requires_grad_(), old


def gspo(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """GSPO's loss as in the paper, equations 5 and 7, one sequence at a time, [4]."""
    losses = []
    for i in range(4):
        here = SEGMENTS.eq(i)
        ratio = (new[here].sum() - old[here].sum()).div(LENGTHS[i]).exp()
        advantage = SEQUENCE_ADVANTAGES[i]
        losses.append(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage))
    return torch.stack(losses)


def test_sequence_surrogate_has_gspos_value_and_gradient() -> None:
    new, old = sequences()
    log_ratio = sequence_mean(new.detach() - old, SEGMENTS, 4)
    terms = sequence_surrogate(new, log_ratio, SEQUENCE_ADVANTAGES[SEGMENTS], clip_low=0.2, clip_high=0.28)
    weights = 1 / torch.tensor(LENGTHS, dtype=torch.float64)[SEGMENTS]
    paper = gspo(new, old)
    assert torch.allclose(sequence_sum(weights * terms.loss.detach(), SEGMENTS, 4), paper.detach())
    actual = gradient(weights * terms.loss, new)
    assert torch.allclose(actual, gradient(paper, new), rtol=1e-12, atol=1e-14)
    assert actual[3:8].tolist() == [0] * 5
    assert terms.clipped.tolist() == [i in (1, 2) for i in SEGMENTS.tolist()]
    assert terms.ratio.tolist() == pytest.approx([math.exp(LOG_RATIOS[i]) for i in SEGMENTS.tolist()])
    # and the paper's loss itself against finite differences
    assert torch.autograd.gradcheck(lambda x: gspo(x, old), (new,))


def test_sequence_surrogate_gives_the_ratio_no_gradient() -> None:
    new, old = sequences()
    log_ratio = sequence_mean(new - old, SEGMENTS, 4)
    assert log_ratio.requires_grad
    advantages = SEQUENCE_ADVANTAGES[SEGMENTS]
    for given_ratio in (log_ratio, log_ratio.detach()):
        terms = sequence_surrogate(new, given_ratio, advantages, clip_low=9.0, clip_high=9.0)
        expected = -log_ratio.detach().exp() * advantages
        assert torch.allclose(gradient(terms.loss, new), expected, rtol=1e-12, atol=0)


# --- CISPO -------------------------------------------------------------------------------------------


def test_cispo_by_hand() -> None:
    new, old, advantages = tokens()
    terms = cispo(new, old, advantages, clip_low=0.2, clip_high=0.28)
    # -clip(r) A: no token loses its gradient.
    expected = [-2, -2.4, -2.56, -1.6, 2, 2.2, 2.56, 1.6, 0, 0]
    assert gradient(terms.loss, new).tolist() == pytest.approx(expected, abs=1e-12)
    logprobs = new.detach().tolist()
    values = [weight * logprob for weight, logprob in zip(expected, logprobs, strict=True)]
    assert terms.loss.tolist() == pytest.approx(values, abs=1e-12)
    assert terms.clipped.tolist() == [i in (2, 3, 6, 7) for i in range(10)]
    assert terms.ratio.tolist() == pytest.approx(list(RATIOS), abs=1e-12)
    assert not terms.ratio.requires_grad


def test_cispo_by_finite_differences_of_the_term_with_a_fixed_weight() -> None:
    new, old, advantages = tokens()
    weight = (new.detach() - old).exp().clamp(0.8, 1.28)
    fixed = -weight * advantages
    assert torch.autograd.gradcheck(lambda x: fixed * x, (new,))
    actual = gradient(cispo(new, old, advantages, clip_low=0.2, clip_high=0.28).loss, new)
    assert torch.allclose(actual, gradient(fixed * new, new), rtol=1e-13, atol=0)


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [0.0, 0.2])
def test_on_policy_the_ratio_is_exactly_one_and_nothing_is_clipped(dtype: torch.dtype, clip: float) -> None:
    generator = torch.Generator().manual_seed(1)
    new = (-5 * torch.rand(10, dtype=dtype, generator=generator)).requires_grad_()
    old = new.detach().clone()
    advantages = torch.randn(10, dtype=dtype, generator=generator)
    log_ratio = sequence_mean(new.detach() - old, SEGMENTS, 4)
    for terms in (
        clipped_surrogate(new, old, advantages, clip_low=clip, clip_high=clip),
        sequence_surrogate(new, log_ratio, advantages, clip_low=clip, clip_high=clip),
        cispo(new, old, advantages, clip_low=clip, clip_high=clip),
    ):
        assert terms.ratio.tolist() == [1] * 10
        assert not terms.clipped.any()
        assert torch.equal(gradient(terms.loss, new), -advantages)
        assert terms.loss.dtype == terms.ratio.dtype == dtype
        assert terms.clipped.dtype == torch.bool


@pytest.mark.parametrize("term", TERMS)
def test_a_ratio_at_the_bound_is_not_clipped(term: Term) -> None:
    # 2 and 1/2 and their logarithm are exact enough for exp(log 2) == 2 in float64.
    new = torch.tensor([math.log(2), -math.log(2)], dtype=torch.float64, requires_grad=True)
    assert new.exp().tolist() == [2, 0.5]
    terms = term(new, torch.zeros_like(new), torch.tensor([1.0, -1.0]).double(), clip_low=0.5, clip_high=1.0)
    assert not terms.clipped.any()
    assert gradient(terms.loss, new).tolist() == [-2, 0.5]


def test_a_ratio_that_overflows_leaves_no_nan_where_no_gradient_is_due() -> None:
    new = torch.zeros(3, requires_grad=True)
    old = torch.tensor([-1000.0, -1000.0, 1000.0])
    advantages = torch.tensor([1.0, 0.0, -1.0])
    terms = clipped_surrogate(new, old, advantages)
    assert terms.loss.tolist() == pytest.approx([-1.28, 0, 0.8])
    assert gradient(terms.loss, new).tolist() == [0, 0, 0]
    terms = cispo(new, old, advantages, clip_low=0.2, clip_high=0.28)
    assert gradient(terms.loss, new).tolist() == pytest.approx([-1.28, 0, 0.8])
    # Where one is due, nothing hides it.
    assert clipped_surrogate(new, old[[0, 0, 0]], -torch.ones(3)).loss.tolist() == [math.inf] * 3


@pytest.mark.parametrize("term", TERMS)
def test_nan_stays_nan(term: Term) -> None:
    new = torch.tensor([math.nan, -1.0, -1.0])
    old = torch.tensor([-1.0, math.nan, -1.0])
    terms = term(new, old, torch.tensor([1.0, -1.0, math.nan]), clip_low=0.2, clip_high=0.2)
    assert bool(terms.loss.isnan().all())


@pytest.mark.parametrize("term", TERMS)
def test_tokens_are_independent_and_may_be_none(term: Term) -> None:
    new, old, advantages = tokens()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    whole = term(new, old, advantages, clip_low=0.2, clip_high=0.28)
    permuted = term(new[order], old[order], advantages[order], clip_low=0.2, clip_high=0.28)
    assert torch.equal(permuted.loss, whole.loss[order])
    assert torch.equal(permuted.clipped, whole.clipped[order])
    empty = torch.zeros(0)
    assert term(empty, empty, empty, clip_low=0.2, clip_high=0.28).loss.shape == (0,)


@pytest.mark.parametrize("term", TERMS)
def test_only_the_logprobs_get_a_gradient(term: Term) -> None:
    new, old, advantages = (tensor.detach().requires_grad_() for tensor in tokens())
    loss = term(new, old, advantages, clip_low=0.2, clip_high=0.28).loss
    assert torch.autograd.grad(loss.sum(), (old, advantages), allow_unused=True) == (None, None)


@pytest.mark.parametrize("term", [*TERMS, sequence_surrogate])
def test_negative_clips_are_refused(term: Term) -> None:
    new, old, advantages = tokens()
    for low, high in ((-0.1, 0.2), (0.2, -0.1), (math.nan, 0.2), (0.2, math.nan)):
        with pytest.raises(ValueError, match="clip_low and clip_high"):
            term(new, old, advantages, clip_low=low, clip_high=high)


@pytest.mark.parametrize("term", [*TERMS, sequence_surrogate])
def test_no_shape_is_broadcast(term: Term) -> None:
    new, old, advantages = tokens()
    with pytest.raises(AssertionError):
        term(new, old, advantages[:1], clip_low=0.2, clip_high=0.2)
    with pytest.raises(AssertionError):
        term(new[:, None], old, advantages, clip_low=0.2, clip_high=0.2)


# --- means over sequences ----------------------------------------------------------------------------


def test_sequence_mean_by_hand() -> None:
    # Sequence 0: 1, 3 and 8; 2: 10; 1 and 3 have no tokens.
    values = torch.tensor([1.0, 10.0, 3.0, 8.0])
    segments = torch.tensor([0, 2, 0, 0])
    assert sequence_sum(values, segments, 4).tolist() == [12, 0, 10, 0]
    assert sequence_mean(values, segments, 4).tolist() == [4, 10, 4, 4]
    assert sequence_mean(values, segments, 4).dtype == torch.float32
    assert sequence_mean(values[:0], segments[:0], 0).shape == (0,)


def test_sequence_mean_does_not_depend_on_the_order_and_repeats_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(20_000, generator=generator)
    segments = torch.randint(0, 7, (20_000,), generator=generator)
    order = torch.randperm(20_000, generator=generator)
    means = sequence_mean(values, segments, 7)
    assert torch.equal(means, sequence_mean(values, segments, 7))
    assert torch.allclose(sequence_mean(values[order], segments[order], 7), means[order], rtol=1e-6)
    # float64 sums: float32 would be off by about 1e-6 of sums that nearly cancel
    for i in range(7):
        exact = math.fsum(values[segments == i].tolist()) / int((segments == i).sum())
        assert means[segments == i][0].item() == pytest.approx(exact, rel=1e-7)


def test_sequence_mean_by_finite_differences() -> None:
    values = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sequence_mean(x, SEGMENTS, 4), (values,))

"""Distillation losses: values by hand, finite differences in float64, limits, properties of KL and JSD."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.losses.cross_entropy import cross_entropy
from kit.losses.distillation import (
    Divergence,
    TopK,
    distillation_loss,
    distillation_terms,
    divergence,
    topk_divergence,
)

KINDS: tuple[Divergence, ...] = get_args(Divergence)


def pair(seed: int, rows: int = 4, vocab: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(rows, vocab, dtype=torch.float64, generator=generator) for _ in "st")
    return student, teacher


def top_k(teacher: torch.Tensor, k: int, temperature: float = 1.0) -> TopK:
    logprobs, ids = (teacher / temperature).log_softmax(-1).topk(k, dim=-1)
    rest = (teacher / temperature).log_softmax(-1).scatter(-1, ids, -math.inf)
    return TopK(ids, logprobs, rest.logsumexp(-1))


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (result,) = torch.autograd.grad(loss.sum(), logits)
    return result


# --- values ------------------------------------------------------------------------------------------


def test_values_by_hand() -> None:
    # Student 1/4, 3/4; teacher 1/2, 1/2. A constant added to logits changes nothing.
    student = torch.tensor([[1.0, 3.0]], dtype=torch.float64).log() + 5
    teacher = torch.tensor([[1.0, 1.0]], dtype=torch.float64).log() - 2
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    reverse = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    # beta 1/4: m = 1/4 * 1/2 + 3/4 * 1/4 = 5/16 and 11/16
    to_teacher = 0.5 * math.log(0.5 / (5 / 16)) + 0.5 * math.log(0.5 / (11 / 16))
    to_student = 0.25 * math.log(0.25 / (5 / 16)) + 0.75 * math.log(0.75 / (11 / 16))
    expected = {
        "forward_kl": forward,
        "reverse_kl": reverse,
        "jsd": 0.25 * to_teacher + 0.75 * to_student,
    }
    for kind in KINDS:
        value = divergence(student, teacher, kind=kind, beta=0.25)
        assert value.tolist() == pytest.approx([expected[kind]], abs=1e-12), kind


def test_temperature_divides_the_logits() -> None:
    # Odds 1:9 at T = 2 are 1:3.
    student = torch.tensor([[1.0, 9.0]], dtype=torch.float64).log()
    teacher = torch.zeros(1, 2, dtype=torch.float64)
    value = divergence(student, teacher, temperature=2.0)
    assert value.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-12)


def test_topk_values_by_hand() -> None:
    # Teacher 1/2 | tail 1/2; student 1/4 | tail 1/8 + 5/8.
    student = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64).log()
    half = torch.tensor([math.log(0.5)], dtype=torch.float64)
    value = topk_divergence(student, TopK(torch.tensor([[1]]), half[None], half))
    assert value.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-12)


# --- gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: Divergence, temperature: float) -> None:
    student, teacher = pair(1)
    student.requires_grad_()
    top = top_k(teacher, 3, temperature)

    def full(logits: torch.Tensor) -> torch.Tensor:
        return divergence(logits, teacher, kind=kind, temperature=temperature, beta=0.3)

    def lumped(logits: torch.Tensor) -> torch.Tensor:
        return topk_divergence(logits, top, kind=kind, temperature=temperature, beta=0.3)

    def cut(logits: torch.Tensor) -> torch.Tensor:
        return divergence(logits, teacher, kind=kind, temperature=temperature, beta=0.3, vocab=6)

    for function in (full, lumped, cut):
        assert torch.autograd.gradcheck(function, (student,)), function.__name__


def test_gradients_of_the_whole_loss_by_finite_differences() -> None:
    student, teacher = pair(2)
    student.requires_grad_()
    targets = torch.tensor([0, 3, 8, 3])
    for known in (teacher, top_k(teacher, 4, 2.0)):
        assert torch.autograd.gradcheck(
            lambda logits, known=known: distillation_loss(logits, targets, known, alpha=0.7, temperature=2.0),
            (student,),
        )


def test_teacher_gets_no_gradient() -> None:
    student, teacher = pair(3)
    teacher.requires_grad_()
    assert not divergence(student, teacher).requires_grad
    loss = divergence(student.requires_grad_(), teacher)
    assert torch.autograd.grad(loss.sum(), teacher, allow_unused=True) == (None,)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_and_no_gradient_where_the_student_is_the_teacher(kind: Divergence) -> None:
    _, teacher = pair(4)
    student = (teacher + 7).requires_grad_()
    for value in (
        divergence(student, teacher, kind=kind, temperature=1.7, beta=0.2),
        topk_divergence(student, top_k(teacher, 3, 1.7), kind=kind, temperature=1.7, beta=0.2),
    ):
        assert value.abs().max() < 1e-14
        assert gradient(value, student).abs().max() < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_a_token_has_no_component_that_softmax_ignores(kind: Divergence) -> None:
    student, teacher = pair(5)
    student.requires_grad_()
    value = topk_divergence(student, top_k(teacher, 2), kind=kind)
    assert gradient(value, student).sum(-1).abs().max() < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_independent(kind: Divergence) -> None:
    student, teacher = pair(6)
    whole = divergence(student, teacher, kind=kind)
    parts = [divergence(student[i : i + 1], teacher[i : i + 1], kind=kind) for i in range(len(student))]
    assert torch.allclose(whole, torch.cat(parts), rtol=1e-13, atol=0)


# --- limits ------------------------------------------------------------------------------------------


def test_forward_kl_less_the_teachers_entropy_is_cross_entropy_for_a_certain_teacher() -> None:
    student, _ = pair(7)
    targets = torch.tensor([2, 0, 8, 1])
    certain = torch.full_like(student, -math.inf).scatter(-1, targets[:, None], 0.0)
    assert torch.allclose(divergence(student, certain), cross_entropy(student, targets), atol=1e-12)


def test_hot_limit_is_half_the_variance_of_the_logit_difference() -> None:
    # T -> oo: T^2 KL -> (1 / 2V) sum_i (d_i - mean d)^2 with d = z_S - z_T (Hinton et al. 2015, section 2.1).
    student, teacher = pair(8)
    difference = student - teacher
    expected = 0.5 * difference.var(-1, correction=0)
    for kind in ("forward_kl", "reverse_kl"):
        scaled = 1e4**2 * divergence(student, teacher, kind=kind, temperature=1e4)
        assert torch.allclose(scaled, expected, rtol=2e-3), kind
    # and the JSD, to second order, is beta (1 - beta) of that
    scaled = 1e4**2 * divergence(student, teacher, kind="jsd", temperature=1e4, beta=0.3)
    assert torch.allclose(scaled, 0.21 * expected, rtol=2e-3)


def test_hot_limit_keeps_the_size_of_the_gradient() -> None:
    # T^2 dKL/dz_i -> (d_i - mean d) / V
    student, teacher = pair(9)
    student.requires_grad_()
    difference = (student - teacher).detach()
    expected = (difference - difference.mean(-1, keepdim=True)) / student.shape[-1]
    targets = torch.zeros(4, dtype=torch.int64)
    loss = distillation_loss(student, targets, teacher, alpha=1.0, temperature=1e4)
    assert torch.allclose(gradient(loss, student), expected, atol=2e-3)


def test_beta_limits_of_the_jsd() -> None:
    # JSD / b -> KL(p_T || p_S) for b -> 0, JSD / (1 - b) -> KL(p_S || p_T) for b -> 1 (Agarwal et al. 2024).
    student, teacher = pair(10)
    small = 1e-6
    forward = divergence(student, teacher, kind="jsd", beta=small) / small
    assert torch.allclose(forward, divergence(student, teacher, kind="forward_kl"), rtol=1e-3)
    reverse = divergence(student, teacher, kind="jsd", beta=1 - small) / small
    assert torch.allclose(reverse, divergence(student, teacher, kind="reverse_kl"), rtol=1e-3)


def test_alpha_limits_leave_the_other_part_out() -> None:
    student, teacher = pair(11)
    targets = torch.tensor([1, 2, 3, 4])
    plain = distillation_terms(student, targets, None, alpha=0.0)
    assert plain.divergence is None
    assert torch.equal(distillation_loss(student, targets, None, alpha=0.0), cross_entropy(student, targets))
    pure = distillation_terms(student, targets, teacher, alpha=1.0)
    assert pure.cross_entropy is None
    loss = distillation_loss(student, targets, teacher, alpha=1.0, temperature=2.0)
    assert torch.equal(loss, 4 * divergence(student, teacher, temperature=2.0))


def test_mixture_by_hand() -> None:
    student, teacher = pair(12)
    targets = torch.tensor([1, 2, 3, 4])
    loss = distillation_loss(student, targets, teacher, alpha=0.25, temperature=2.0, kind="reverse_kl")
    kd = divergence(student, teacher, kind="reverse_kl", temperature=2.0)
    assert torch.allclose(loss, 0.25 * 4 * kd + 0.75 * cross_entropy(student, targets), atol=1e-12)


# --- vocabulary --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_vocabularies_give_the_same_bits(kind: Divergence, dtype: torch.dtype) -> None:
    student, teacher = (part.to(dtype) for part in pair(13, vocab=37))
    junk = torch.full((4, 12), 40.0, dtype=dtype)
    padded = torch.cat([student, junk], -1).requires_grad_(), torch.cat([teacher, junk[:, :5]], -1)
    student.requires_grad_()
    plain = divergence(student, teacher, kind=kind, temperature=1.3)
    wide = divergence(*padded, kind=kind, temperature=1.3, vocab=37)
    assert torch.equal(plain, wide)
    assert torch.equal(gradient(wide, padded[0])[:, :37], gradient(plain, student))
    assert not gradient(divergence(*padded, kind=kind, vocab=37), padded[0])[:, 37:].any()
    top = top_k(teacher.double(), 5, 1.3)
    assert torch.equal(
        topk_divergence(student, top, kind=kind, temperature=1.3),
        topk_divergence(padded[0], top, kind=kind, temperature=1.3, vocab=37),
    )


@pytest.mark.parametrize(
    ("sizes", "vocab", "message"),
    [((5, 6), None, "5 and 6"), ((5, 6), 6, "vocab is 6"), ((5, 5), 0, "vocab is 0")],
)
def test_vocabularies_that_do_not_fit(sizes: tuple[int, int], vocab: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divergence(torch.zeros(1, sizes[0]), torch.zeros(1, sizes[1]), vocab=vocab)


def test_impossible_settings() -> None:
    logits, targets = torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(ValueError, match="temperature is 0"):
        divergence(logits, logits, temperature=0)
    with pytest.raises(ValueError, match="beta is 1"):
        divergence(logits, logits, kind="jsd", beta=1.0)
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        distillation_loss(logits, targets, logits, alpha=1.5)
    with pytest.raises(ValueError, match="teacher is needed"):
        distillation_loss(logits, targets, None, alpha=0.5)


# --- properties --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.3, 5),
    beta=st.floats(0.05, 0.95),
    k=st.integers(1, 9),
)
def test_bounds(seed: int, temperature: float, beta: float, k: int) -> None:
    student, teacher = pair(seed)
    top = top_k(teacher, k, temperature)
    for kind in KINDS:
        full = divergence(student, teacher, kind=kind, temperature=temperature, beta=beta)
        lumped = topk_divergence(student, top, kind=kind, temperature=temperature, beta=beta)
        assert bool((full >= -1e-12).all()), kind
        assert bool((lumped <= full + 1e-12).all()), kind
        assert bool((lumped >= -1e-12).all()), kind
        if k == 9:
            assert torch.allclose(lumped, full, atol=1e-12), kind
    entropy = -(beta * math.log(beta) + (1 - beta) * math.log(1 - beta))
    assert bool((full <= entropy + 1e-12).all())  # of the last kind, the JSD
    mirrored = divergence(teacher, student, kind="jsd", temperature=temperature, beta=1 - beta)
    assert torch.allclose(full, mirrored, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_topk_of_everything_has_the_full_gradient(kind: Divergence) -> None:
    student, teacher = pair(14)
    student.requires_grad_()
    full = gradient(divergence(student, teacher, kind=kind), student)
    lumped = gradient(topk_divergence(student, top_k(teacher, 9), kind=kind), student)
    assert torch.allclose(full, lumped, atol=1e-12)


# --- numbers at the edge -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_tokens_that_the_teacher_excludes(kind: Divergence) -> None:
    student, teacher = pair(15)
    teacher[:, 4] = -math.inf
    student = student.float().requires_grad_()
    value = divergence(student, teacher.float(), kind=kind)
    assert bool(value.isfinite().all())
    assert bool(gradient(value, student).isfinite().all())
    # What the excluded token adds is known: nothing to the forward KL but its share of the normaliser.
    if kind == "forward_kl":
        kept = [i for i in range(9) if i != 4]
        mass = student.softmax(-1)[:, kept].sum(-1)
        expected = divergence(student[:, kept], teacher[:, kept].float()) - mass.log()
        assert torch.allclose(value, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_both_exclude_change_nothing(kind: Divergence) -> None:
    student, teacher = pair(16)
    kept = [0, 1, 2, 3, 5, 6, 7, 8]
    expected = divergence(student[:, kept], teacher[:, kept], kind=kind)
    student[:, 4] = teacher[:, 4] = -math.inf
    student.requires_grad_()
    value = divergence(student, teacher, kind=kind)
    assert torch.allclose(value, expected, atol=1e-12)
    assert bool(gradient(value, student).isfinite().all())
    assert not gradient(divergence(student, teacher, kind=kind), student)[:, 4].any()


def test_reverse_kl_to_an_excluded_token_is_infinite() -> None:
    student, teacher = pair(17)
    teacher[0, 4] = -math.inf
    value = divergence(student, teacher, kind="reverse_kl")
    assert value.isinf().tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_tail_far_below_float32s_resolution(kind: Divergence) -> None:
    # The student's tail has mass 8 e^-60 (and e^-200, below float32's smallest number): 1 - rest is 0 there.
    for depth in (60.0, 200.0):
        student = torch.full((1, 9), -depth, dtype=torch.float64)
        student[0, 0] = 0
        teacher = torch.zeros(1, 9, dtype=torch.float64)
        teacher[0, 0] = 1
        top = top_k(teacher, 1)
        exact = student.clone().requires_grad_()
        single = student.float().requires_grad_()
        value = topk_divergence(exact, top, kind=kind)
        rough = topk_divergence(
            single, TopK(top.ids, top.logprobs.float(), top.tail_logprob.float()), kind=kind
        )
        assert rough.item() == pytest.approx(value.item(), rel=1e-5)
        slope = gradient(rough, single)
        assert torch.allclose(slope.double(), gradient(value, exact), atol=1e-6)
        if kind == "forward_kl":  # the tail is pulled up by the teacher's mass in it, spread evenly here
            mass = 1 - math.e / (math.e + 8)
            assert slope[0, 1:].tolist() == pytest.approx([-mass / 8] * 8, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_with_float64(kind: Divergence) -> None:
    student, teacher = pair(18, rows=16, vocab=501)
    student, teacher = (5 * student).requires_grad_(), 5 * teacher
    single = student.detach().float().requires_grad_()
    top = top_k(teacher, 20, 0.7)
    small = TopK(top.ids, top.logprobs.float(), top.tail_logprob.float())
    full = divergence(student, teacher, kind=kind, temperature=0.7)
    rough = divergence(single, teacher.float(), kind=kind, temperature=0.7)
    assert torch.allclose(rough.double(), full, rtol=1e-5, atol=1e-6)
    assert torch.allclose(gradient(rough, single).double(), gradient(full, student), rtol=1e-4, atol=5e-5)
    full = topk_divergence(student, top, kind=kind, temperature=0.7)
    rough = topk_divergence(single, small, kind=kind, temperature=0.7)
    assert torch.allclose(rough.double(), full, rtol=1e-5, atol=1e-5)
    assert torch.allclose(gradient(rough, single).double(), gradient(full, student), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_computed_in_float32(kind: Divergence) -> None:
    student, teacher = (part.bfloat16() for part in pair(19))
    wide = student.float().requires_grad_()
    student.requires_grad_()
    value = divergence(student, teacher, kind=kind, temperature=2.0)
    expected = divergence(wide, teacher.float(), kind=kind, temperature=2.0)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    slope = gradient(value, student)
    assert slope.dtype == torch.bfloat16
    assert torch.equal(slope, gradient(expected, wide).bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_left_as_they_were(kind: Divergence) -> None:
    student, teacher = pair(20)
    top = top_k(teacher, 3)
    before = [part.clone() for part in (student, teacher, *top)]
    divergence(student, teacher, kind=kind)
    topk_divergence(student, top, kind=kind)
    for now, then in zip((student, teacher, *top), before, strict=True):
        assert torch.equal(now, then)
    assert divergence(student[:0], teacher[:0], kind=kind).shape == (0,)


@pytest.mark.parametrize(("kind", "most"), [("forward_kl", 3), ("reverse_kl", 3), ("jsd", 4)])
def test_memory_is_what_the_docstring_says(kind: Divergence, most: int) -> None:
    student, teacher = (part.float() for part in pair(21, rows=64, vocab=4096))
    size = student.numel() * 4
    for dtype in (torch.float32, torch.bfloat16):
        logits = student.to(dtype).requires_grad_()
        known = teacher.to(dtype)
        assert peak_bytes(lambda: divergence(logits, known, kind=kind)) <= (most + 0.3) * size  # noqa: B023
    top = top_k(teacher, 8)
    logits = student.bfloat16().requires_grad_()
    assert peak_bytes(lambda: topk_divergence(logits, top, kind=kind)) <= 3.3 * size


def peak_bytes(call: Callable[[], torch.Tensor]) -> int:
    """Most bytes that torch's CPU allocator held at once for what `call` made."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        result = call()
    assert result.requires_grad
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert peak > 0
    return peak

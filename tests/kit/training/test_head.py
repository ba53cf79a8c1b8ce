"""Head and loss in chunks equal the plain head and loss: value and both gradients."""

from typing import Any

import pytest

from kit.losses.cross_entropy import cross_entropy
from kit.losses.distillation import divergence
from kit.training.head import head_loss

TOKENS, HIDDEN, VOCABULARY = 11, 6, 13
CHUNKS = (1, 3, 4, 11, 50)


def inputs(tokens: int = TOKENS, dtype: str = "float64") -> tuple[Any, Any, Any, Any]:
    """Hidden states, weight, targets, teacher's logits."""
    import torch

    random = torch.Generator().manual_seed(3)
    kind = getattr(torch, dtype)
    hidden = torch.randn(tokens, HIDDEN, generator=random, dtype=torch.float64).to(kind).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=random, dtype=torch.float64).to(kind).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=random)
    teacher = torch.randn(tokens, VOCABULARY, generator=random, dtype=torch.float64)
    return hidden, weight, targets, teacher


def mixed(targets: Any, teacher: Any) -> Any:
    """A loss of two parts whose parts are told beside it."""

    def loss(logits: Any, part: slice) -> tuple[Any, dict[str, Any]]:
        ce = cross_entropy(logits, targets[part])
        kd = divergence(logits, teacher[part], kind="jsd", temperature=2.0)
        return 0.3 * ce + 0.7 * kd, {"ce": ce, "kd": kd}

    return loss


@pytest.mark.parametrize("chunk", CHUNKS)
def test_equals_the_plain_head(chunk: int) -> None:
    import torch

    hidden, weight, targets, teacher = inputs()
    values, parts = mixed(targets, teacher)(hidden @ weight.t(), slice(None))
    expected = torch.autograd.grad(1.7 * values.sum(), (hidden, weight))
    total, sums = head_loss(hidden, weight, mixed(targets, teacher), chunk)
    found = torch.autograd.grad(1.7 * total, (hidden, weight))
    assert total.item() == pytest.approx(values.sum().item(), rel=1e-13)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert {name: value.item() for name, value in sums.items()} == pytest.approx(
        {name: value.sum().item() for name, value in parts.items()}, rel=1e-13
    )
    assert not any(value.requires_grad for value in sums.values())


def test_gradients_are_those_of_finite_differences() -> None:
    import torch

    hidden, weight, targets, teacher = inputs(5)
    total, _ = head_loss(hidden, weight, mixed(targets, teacher), 2)
    found = torch.autograd.grad(total, (hidden, weight))
    step = 1e-5
    with torch.no_grad():
        for tensor, gradient in zip((hidden, weight), found, strict=True):
            for place in range(0, tensor.numel(), 7):
                values = []
                for sign in (1, -1):
                    tensor.view(-1)[place] += sign * step
                    values.append(head_loss(hidden, weight, mixed(targets, teacher), 2)[0].item())
                    tensor.view(-1)[place] -= sign * step
                slope = (values[0] - values[1]) / (2 * step)
                assert gradient.flatten()[place].item() == pytest.approx(slope, rel=1e-7, abs=1e-9)


def test_no_tokens_have_no_loss_but_gradients() -> None:
    """A rank without rows takes part in the backward pass: its gradients are zeros, not missing."""
    import torch

    hidden, weight, targets, teacher = inputs(0)
    total, sums = head_loss(hidden, weight, mixed(targets, teacher), 4)
    total.backward()
    assert total.item() == 0
    assert sums == {}
    assert hidden.grad.shape == (0, HIDDEN)
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    import torch

    hidden, weight, targets, teacher = inputs()
    expected = torch.autograd.grad(
        mixed(targets, teacher)(hidden @ weight.t(), slice(None))[0].sum(), (hidden, weight)
    )
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    total, _ = head_loss(hidden, weight, mixed(targets, teacher), 4)
    total.backward()
    left, gradient = (weight, expected[1]) if frozen == "hidden" else (hidden, expected[0])
    assert (hidden if frozen == "hidden" else weight).grad is None
    torch.testing.assert_close(left.grad, gradient, rtol=1e-12, atol=1e-14)


def test_without_gradients_only_the_value_is_made() -> None:
    import torch

    hidden, weight, targets, teacher = inputs()
    expected = mixed(targets, teacher)(hidden @ weight.t(), slice(None))[0].sum()
    with torch.no_grad():
        total, _ = head_loss(hidden, weight, mixed(targets, teacher), 4)
    assert total.item() == pytest.approx(expected.item(), rel=1e-13)
    assert not total.requires_grad


@pytest.mark.parametrize("chunk", CHUNKS)
def test_bfloat16_is_summed_in_float32(chunk: int) -> None:
    """As exact as the plain head in bfloat16: 8 bits of mantissa, whatever the number of chunks."""
    import torch

    hidden, weight, targets, teacher = inputs(dtype="bfloat16")
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    value = mixed(targets, teacher)(exact[0] @ exact[1].t(), slice(None))[0].sum()
    expected = torch.autograd.grad(value, exact)
    total, _ = head_loss(hidden, weight, mixed(targets, teacher), chunk)
    assert total.dtype == torch.promote_types(total.dtype, torch.float32)
    assert total.item() == pytest.approx(value.item(), rel=0.02)
    found = torch.autograd.grad(total, (hidden, weight))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        error = float((ours.double() - theirs).abs().max() / theirs.abs().max())
        assert error < 0.03


def test_not_a_number_is_not_hidden() -> None:
    import torch

    hidden, weight, targets, teacher = inputs()
    with torch.no_grad():
        hidden[4, 0] = float("nan")
    total, _ = head_loss(hidden, weight, mixed(targets, teacher), 3)
    assert torch.isnan(total)
    total.backward()
    assert torch.isnan(weight.grad).any()


def test_a_second_backward_pass_is_refused() -> None:
    """The gradients are scaled in place: a second time they would be wrong."""
    hidden, weight, targets, teacher = inputs()
    total, _ = head_loss(hidden, weight, mixed(targets, teacher), 3)
    total.backward(retain_graph=True)
    kept = hidden.grad.clone()
    with pytest.raises((RuntimeError, TypeError, AssertionError)):
        total.backward()
    assert bool((hidden.grad == kept).all())


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite", "phi"])
def test_models_whose_logits_are_more_than_their_head_are_refused(family: str) -> None:
    """Capped (however small the logits are at the start), scaled, or shifted."""
    from transformers import CohereConfig, Gemma2Config, GraniteConfig, PhiConfig

    from kit.training.model import check_architecture

    small = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}
    configs: dict[str, Any] = {
        "gemma2": lambda: Gemma2Config(**small, head_dim=16, final_logit_softcapping=30.0),
        "cohere": lambda: CohereConfig(**small, logit_scale=0.0625),
        "granite": lambda: GraniteConfig(**small, logits_scaling=8.0),
        "phi": lambda: PhiConfig(**small),
    }
    with pytest.raises(ValueError, match="not supported"):
        check_architecture(configs[family]())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_plain_heads_are_taken(family: str) -> None:
    from transformers import AutoConfig

    from kit.training.model import check_architecture

    small = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    check_architecture(AutoConfig.for_model(family, **small, head_dim=16))

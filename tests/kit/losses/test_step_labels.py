import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kit.losses.step_labels import ClassWeights, balanced, log_odds_of, step_loss


def test_hand_values() -> None:
    """x = ln 3 is p = 3/4: -ln 0.75 right, -ln 0.25 wrong, their mean at one half."""
    x = torch.full((3,), math.log(3), dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 0.5])
    expected = [math.log(4 / 3), math.log(4), (math.log(4 / 3) + math.log(4)) / 2]
    assert step_loss(x, y).tolist() == pytest.approx(expected)


def test_weights_stand_before_each_class() -> None:
    x, y = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 0.0, 0.25])
    found = step_loss(x, y, ClassWeights(2.0, 6.0)).tolist()
    assert found == pytest.approx([2 * math.log(2), 6 * math.log(2), (0.5 + 4.5) * math.log(2)])


def test_two_labels_are_cross_entropy() -> None:
    logits = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0.0, 1.0, 0.2, 0.5, 0.9, 1.0, 0.0], dtype=torch.float64)
    both = torch.stack([1 - y, y], dim=1)
    expected = torch.nn.functional.cross_entropy(logits, both, reduction="none")
    assert torch.allclose(step_loss(log_odds_of(logits), y), expected, rtol=1e-12)


def test_one_label_is_the_log_odds() -> None:
    assert log_odds_of(torch.tensor([[2.0], [-1.0]])).tolist() == [2.0, -1.0]
    assert log_odds_of(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("weights", [None, ClassWeights(0.7, 1.9)])
def test_gradients_by_finite_differences(weights: ClassWeights | None) -> None:
    x = torch.tensor([-3.0, -0.1, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, 0.3, 0.5, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: step_loss(z, y, weights), (x,))


def test_far_log_odds_stay_finite() -> None:
    x = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = step_loss(x, torch.tensor([0.0, 1.0]))
    loss.sum().backward()
    assert loss.tolist() == [1e4, 1e4]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, -1.0]


def test_balanced() -> None:
    assert balanced([1.0, 1.0, 1.0, 0.0]) == ClassWeights(4 / 6, 2.0)
    assert balanced([1.0, 1.0]) == balanced([]) == ClassWeights()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_balanced_classes_count_the_same(labels: list[float]) -> None:
    right, wrong = balanced(labels)
    if (right, wrong) == (1.0, 1.0):
        return
    of_right = sum(right * y for y in labels)
    of_wrong = sum(wrong * (1 - y) for y in labels)
    assert of_right == pytest.approx(of_wrong) == pytest.approx(len(labels) / 2)

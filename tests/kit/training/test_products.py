"""Products by oneDNN against torch's own."""

import pytest

from kit.training.products import add_product, product, use_products


@pytest.mark.parametrize("shape", [(1, 5, 3), (17, 33, 64), (300, 7, 96), (2, 1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_products_are_those_of_the_matrices(shape: tuple[int, int, int], dtype: str) -> None:
    """Views of other strides included. float32 stays float32: no digit is given up for speed."""
    import torch

    rows, columns, inner = shape
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    left = torch.randn(rows, inner, generator=generator, dtype=torch.float64).to(kind)
    right = torch.randn(columns, inner, generator=generator, dtype=torch.float64).to(kind)
    expected = left.double() @ right.double().t()
    scale = left.double().abs() @ right.double().abs().t()
    error = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 2e-2}[dtype]
    for one, other in ((left, right), (left.t().contiguous().t(), right), (left, right.t().contiguous().t())):
        found = product(one, other)
        assert found.dtype == kind
        assert bool(((found.double() - expected).abs() <= error * scale + 1e-12).all())
    wide = torch.promote_types(kind, torch.float32)
    total = torch.ones(rows, columns, dtype=wide)
    add_product(total, left, right)
    assert bool(((total.double() - 1 - expected).abs() <= error * (scale + 1)).all())


def test_nothing_times_something() -> None:
    import torch

    assert product(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "weight", "inputs"])
def test_layers_and_their_gradients(bias: bool, frozen: str) -> None:
    import copy

    import torch

    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(24, 40, bias=bias), torch.nn.Linear(40, 8, bias=bias))
    plain.requires_grad_(frozen != "weight")
    model = copy.deepcopy(plain)
    use_products(model)
    assert all(type(layer) is not torch.nn.Linear for layer in model)
    found = []
    for layers in (model, plain):
        inputs = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
        inputs.requires_grad_(frozen != "inputs")
        output = layers(inputs)
        leaves = [one for one in (inputs, *layers.parameters()) if one.requires_grad]
        found.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    assert found[0][0].shape == (2, 5, 8)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_other_layers_are_left_alone() -> None:
    """A class of its own may do more than multiply; weights, names and copies stay as they were."""
    import copy

    import torch

    class Own(torch.nn.Linear):  # type: ignore[misc]  # torch's class is untyped
        pass

    model = torch.nn.Sequential(Own(3, 3), torch.nn.Linear(3, 3), torch.nn.Embedding(3, 3))
    names = list(model.state_dict())
    use_products(model)
    assert type(model[0]) is Own
    assert isinstance(model[1], torch.nn.Linear)
    assert list(model.state_dict()) == names
    double = copy.deepcopy(model).double()
    inputs = torch.ones(2, 3, dtype=torch.float64)
    expected = inputs @ double[1].weight.t() + double[1].bias
    torch.testing.assert_close(double[1](inputs), expected, rtol=0, atol=1e-14)

"""Batch normalisation and its derivatives beside the definition."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from graphfsl.functional.batch_norm import batch_norm

EPS = 1e-5
SHAPES = [(7, 3), (5, 3, 4), (4, 3, 2, 3)]


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    weight, bias = torch.randn(2, shape[1], dtype=torch.double, requires_grad=True)
    return x, weight.detach().requires_grad_(), bias.detach().requires_grad_()


def by_definition(x, weight, bias, eps):
    dims = (0, *range(2, x.ndim))
    channel = (-1, *(1,) * (x.ndim - 2))
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (var + eps).sqrt() * weight.view(channel) + bias.view(channel)


def derivatives(function: Callable[..., Tensor], arguments, order: int):
    """The value, and the gradients of a scalar of the gradients of …, `order` times."""
    found: Sequence[Tensor] = [function(*arguments, EPS)]
    for _ in range(order):
        scalar = sum((t.sin() * t).sum() for t in found)
        found = torch.autograd.grad(scalar, arguments, create_graph=True)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_derivatives_up_to_the_third_are_those_of_the_definition(shape, order):
    arguments = inputs(shape)
    for own, theirs in zip(
        derivatives(batch_norm, arguments, order),
        derivatives(by_definition, arguments, order),
        strict=True,
    ):
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-10)


def test_second_derivatives_are_finite_differences():
    arguments = inputs((4, 3, 2, 2))
    assert torch.autograd.gradcheck(lambda x, w, b: batch_norm(x, w, b, EPS), arguments)
    assert torch.autograd.gradgradcheck(lambda x, w, b: batch_norm(x, w, b, EPS), arguments)


def test_maps_stay_in_their_layout():
    x = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    y = batch_norm(x, torch.ones(3), torch.zeros(3), EPS)
    assert y.is_contiguous(memory_format=torch.channels_last)

"""The gradient and the curvature of an inner loss, also inside PyTorch's function transforms."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphfsl.core.rules import Params


def transforming() -> bool:
    """Whether this call stands inside `torch.func.grad`, `vmap` or another transform.

    Their tensors carry no autograd graph that `torch.autograd.grad` would see.
    """
    return bool(torch._C._are_functorch_transforms_active())


def plain_attention() -> AbstractContextManager[None]:
    """Within this block attention is computed step by step, not in one kernel.

    Such a kernel has a first derivative and no second.
    """
    block: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return block


def inner_gradient(
    loss_of: Callable[[Params], Tensor], params: Params, second_order: bool
) -> tuple[Tensor, Params]:
    """An inner loss, and its gradient for each of the parameters.

    Args:
        loss_of: parameters -> a scalar.
        params: name -> tensor, where the loss is taken.
        second_order: whether loss and gradient can be differentiated; constants otherwise.

    Returns:
        the loss, and name -> gradient, zeros where the loss does not depend on a parameter.
    """
    attention = plain_attention() if second_order else nullcontext()
    # in inference mode autograd sees nothing, even where gradients are enabled; transforms do
    if transforming() or torch.is_inference_mode_enabled():
        with attention:
            grads, loss = torch.func.grad_and_value(loss_of)(params)
        if not second_order:
            grads = {name: g.detach() for name, g in grads.items()}
        return (loss if second_order else loss.detach()), grads
    with torch.enable_grad():
        # Views, not the tensors themselves: where weights b were computed from weights a, as
        # imprinted ones from the encoder's, the gradient for a would count the way through b too.
        at = {
            name: p.view_as(p) if second_order and p.requires_grad else p.detach().requires_grad_()
            for name, p in params.items()
        }
        with attention:
            loss = loss_of(at)
    if not loss.requires_grad:  # it depends on none of them
        return loss, {n: torch.zeros_like(p) for n, p in params.items()}
    found = torch.autograd.grad(
        loss,
        list(at.values()),
        create_graph=second_order,
        allow_unused=True,
        materialize_grads=True,
    )
    grads = dict(zip(at, found, strict=True))
    return (loss if second_order else loss.detach()), grads


def inner_curvature(
    loss_of: Callable[[Params], Tensor], params: Params
) -> tuple[Params, Callable[[Params], Params]]:
    """The gradient of an inner loss, and the products of its Hessian H with a vector.

    Args:
        loss_of: parameters -> a scalar.
        params: name -> tensor, where the loss is taken; constants.

    Returns:
        name -> gradient, which can be differentiated for anything else that the loss depends on,
        and v -> H v, whose products are constants; it holds the graph of the gradient.
    """
    at = {name: p.detach() for name, p in params.items()}
    if transforming():
        with plain_attention():
            grads, pull_back = torch.func.vjp(torch.func.grad(loss_of), at)  # type: ignore[misc]

        def pulled(v: Params) -> Params:
            # v^T H, which is H v, since H is symmetric
            return {name: p.detach() for name, p in pull_back(v)[0].items()}

        return grads, pulled
    at = {name: p.requires_grad_() for name, p in at.items()}
    _, grads = inner_gradient(loss_of, at, second_order=True)

    def product(v: Params) -> Params:
        with torch.enable_grad():
            along = torch.stack([(grads[name] * v[name]).sum() for name in at]).sum()
        if not along.requires_grad:  # the loss is linear
            return {name: torch.zeros_like(p) for name, p in at.items()}
        products = torch.autograd.grad(
            along, list(at.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return dict(zip(at, products, strict=True))

    return grads, product

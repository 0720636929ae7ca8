"""Batch normalisation whose second derivative costs about as much as its first."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["batch_norm"]


def batch_norm(
    x: Float[Tensor, "R C *S"], weight: Float[Tensor, " C"], bias: Float[Tensor, " C"], eps: float
) -> Float[Tensor, "R C *S"]:
    """Each channel less its mean, over its standard deviation, scaled and shifted.

    With n = (x - mean) / sqrt(var + eps), the moments those of all rows and places of a channel,

        y = weight n + bias

    It is what `torch.nn.functional.batch_norm` gives in training, without averages. The second
    derivative of that one is many sums over all of x, which dominate inner loops that are
    differentiated. Not for function transforms such as `torch.func.vmap`.

    Args:
        x: (R, C, *S) rows, with more than one number a channel.
        weight: (C,) of the type of x.
        bias: (C,) of that type.
        eps: added to the variance.

    Returns:
        (R, C, *S).
    """
    y: Tensor = _BatchNorm.apply(x, weight, bias, eps)
    return y


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        return *_Backward.apply(g, x, weight, mean, scale, ctx.eps), None


def _by_definition(
    x: Float[Tensor, "R C *S"], weight: Float[Tensor, " C"], bias: Float[Tensor, " C"], eps: float
) -> Float[Tensor, "R C *S"]:
    dims = (0, *range(2, x.ndim))
    channel = (-1,) + (1,) * (x.ndim - 2)
    centred = x - x.mean(dims, keepdim=True)
    n = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    return weight.view(channel) * n + bias.view(channel)


class _Backward(torch.autograd.Function):
    """The gradients of x, weight and bias, as a function of g, x and weight.

    With r = 1 / sqrt(var + eps) and a bar for the mean over a channel's M numbers,

        dx = weight r (g - bar(g) - n bar(g n)),   dweight = M bar(g n),   dbias = M bar(g)
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            g, x, weight, None, None, mean, scale, True, eps, [True, True, True]
        )
        ctx.save_for_backward(g, x, weight, mean, scale, dweight, dbias)
        ctx.eps = eps
        return dx, dweight, dbias

    @staticmethod
    def backward(
        ctx: Any, v: Tensor, s: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        """What v, s and t, the gradients of dx, dweight and dbias, come to for g, x and weight."""
        g, x, weight, mean, scale, dweight, dbias = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative, which PyTorch's own has not
            # g may be a function of x; a view of each keeps what is direct apart from that
            g, x, weight = (p.view_as(p) for p in (g, x, weight))
            bias = torch.zeros_like(weight, requires_grad=True)
            y = _by_definition(x, weight, bias, ctx.eps)
            first = torch.autograd.grad(y, (x, weight, bias), g, create_graph=True)
            dg, dx, dw = torch.autograd.grad(first, (g, x, weight), (v, s, t), create_graph=True)
            return dg, dx, dw, None, None, None
        dims = (0, *range(2, x.ndim))
        channel = (-1,) + (1,) * (x.ndim - 2)
        w, r, s, t = (p.view(channel) for p in (weight, scale, s, t))
        count = x.numel() // x.shape[1]
        mean_g, mean_gn = dbias.view(channel) / count, dweight.view(channel) / count

        n = torch.addcmul(-mean.view(channel) * r, x, r)
        mean_v = v.mean(dims, keepdim=True)
        mean_vn = (v * n).mean(dims, keepdim=True)
        # dweight's own derivative, which also says how fast dx shrinks as the deviation grows
        spread = (v * g).mean(dims, keepdim=True) - mean_v * mean_g - mean_gn * mean_vn

        wr = w * r
        for_g = torch.addcmul(t - wr * mean_v, v, wr).addcmul_(n, s - wr * mean_vn)
        wrr, sr = wr * r, s * r
        # for x: constant + of_v v + of_g g + of_n n
        constant = wrr * (mean_gn * mean_v + mean_vn * mean_g) - sr * mean_g
        of_v, of_g = -wrr * mean_gn, sr - wrr * mean_vn
        of_n = wrr * (2 * mean_gn * mean_vn - spread) - sr * mean_gn
        for_x = torch.addcmul(constant, v, of_v).addcmul_(g, of_g).addcmul_(n, of_n)
        return for_g, for_x, (count * r * spread).flatten(), None, None, None

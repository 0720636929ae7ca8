"""Ridge regression of label weights on node features, in closed form."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ridge(
    z: Float[Tensor, "B n d"], w: Float[Tensor, "B n C"], penalty: Float[Tensor, ""]
) -> Float[Tensor, "B C d"]:
    """Ridge regression of label weights on node features, in closed form.

    The least sum_i omega_i ||W z_i - y_i||^2 + penalty ||W||^2, with omega_i = sum_k w_ik and
    omega_i y_i = w_i, is at

        W^T = Z^T (Omega Z Z^T + penalty I)^-1 w      for n <= d (Woodbury)
        W^T = (Z^T Omega Z + penalty I)^-1 Z^T w      else

    Neither divides by a weight, so that a node without weight is simply not read.

    Args:
        z: (B, n, d) features.
        w: (B, n, C) label weights.
        penalty: a number above zero.

    Returns:
        W (B, C, d).
    """
    weight = w.sum(-1, keepdim=True)
    z = z.masked_fill(weight == 0, 0)
    n, d = z.shape[-2:]
    eye = torch.eye(min(n, d), dtype=z.dtype, device=z.device)
    if n <= d:
        dual: Tensor = torch.linalg.solve_ex(weight * (z @ z.mT) + penalty * eye, w)[0].mT @ z
        return dual
    primal: Tensor = torch.linalg.solve_ex(z.mT @ (weight * z) + penalty * eye, z.mT @ w)[0].mT
    return primal


def kernel_ridge(
    kernel: Float[Tensor, "B n n"],
    weight: Float[Tensor, "B n"],
    y: Float[Tensor, "B n D"],
    penalty: Float[Tensor, ""],
) -> Float[Tensor, "B n D"]:
    """Ridge regression of values on nodes of which only a kernel is known, in closed form.

    The least sum_i omega_i |f(x_i) - y_i|^2 + penalty ||f||^2 is at

        f(x) = sum_i k(x, x_i) a_i,  a = (Omega K + penalty I)^-1 Omega y

    It does not divide by a weight, so that a node without weight is simply not read: its a_i is 0.

    Args:
        kernel: (B, n, n) K, of the nodes among each other.
        weight: (B, n) omega, of each node.
        y: (B, n, D) values.
        penalty: a number above zero.

    Returns:
        a (B, n, D).
    """
    omega = weight.unsqueeze(-1)
    read = omega > 0
    kernel = kernel.masked_fill(~(read & read.mT), 0)
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    weighted = omega * y.masked_fill(~read, 0)
    dual: Tensor = torch.linalg.solve_ex(omega * kernel + penalty * eye, weighted)[0]
    return dual

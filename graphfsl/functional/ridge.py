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

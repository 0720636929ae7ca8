"""Values on a graph, of which some are known: every other one is the mean of its neighbors'."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def harmonic(
    a: Float[Tensor, "n n"], values: Float[Tensor, "n d"], known: Bool[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Solve f_i = sum_j a_ij f_j / sum_j a_ij for each unknown node; f_i = values_i for the others.

    Args:
        a: (n, n) symmetric affinities, not negative; every unknown node has a path to a known one.
        values: (n, d), of unknown nodes anything.
        known: (n,) whose values hold.

    Returns:
        (n, d), of the type of `values`.

    Source:
        Zhu, Ghahramani, Lafferty 2003, equation 5: f_u = (D_uu - W_uu)^-1 W_ul f_l,
        https://www.aaai.org/Papers/ICML/2003/ICML03-118.pdf
    """
    w = a.double()
    laplacian = torch.diag(w.sum(1)) - w
    from_known = w[~known][:, known] @ values[known].double()
    found = values.clone()
    found[~known] = torch.linalg.solve(laplacian[~known][:, ~known], from_known).to(values)
    return found

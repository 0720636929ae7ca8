"""Which few of many samples cover all of them best, greedily.

covered = 0
repeat:  i = argmax_i sum_j max(0, k_ij - covered_j);  covered_j = max(covered_j, k_ij)
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graphfsl.functional.statistics import or_one

COLUMNS = 4096  # of the kernel that are compared at once
EQUAL = 1e-6  # gains are equal up to this share: two that cover each other only gain the same


def greedy_coverage(
    k: Float[Tensor, "*B m n"],
    candidates: Bool[Tensor, "*B m"],
    count: int,
    covered: Float[Tensor, "*B n"],
) -> tuple[Int[Tensor, "*B count"], Float[Tensor, "*B count"]]:
    """Choose the candidates that add most to what is covered, one after the other.

    Coverage sum_j max_i k_ij is submodular: gains never rise from one choice to the next, and it is
    within 1 - 1/e of the best that so many choices can reach.

    Args:
        k: (…, m, n) how well candidate i covers sample j, not negative; zero for padding.
        candidates: (…, m) which may be chosen.
        count: how many are chosen.
        covered: (…, n) how well each sample is covered before.

    Returns:
        (…, count) the choices, each another while candidates are left and any behind them; of equal
        gains the first one wins. And (…, count) their gains, zero where none is left.

    Source:
        Nemhauser, Wolsey, Fisher 1978, https://doi.org/10.1007/BF01588971.
    """
    chosen, gains = [], []
    for _ in range(count):
        every_gain = _gains(k, covered).masked_fill(~candidates, -1)
        gain = every_gain.amax(-1)
        best = (every_gain >= gain.unsqueeze(-1) * (1 - EQUAL)).byte().argmax(-1)
        row = best[..., None, None].expand(*best.shape, 1, k.shape[-1])
        covered = torch.maximum(covered, k.gather(-2, row).squeeze(-2))
        candidates = candidates.scatter(-1, best.unsqueeze(-1), False)
        chosen.append(best)
        gains.append(gain.clamp_min(0).to(k.dtype))
    if not count:
        none = candidates[..., :0]
        return none.long(), none.to(k.dtype)
    return torch.stack(chosen, -1), torch.stack(gains, -1)


def _gains(k: Float[Tensor, "*B m n"], covered: Float[Tensor, "*B n"]) -> Float[Tensor, "*B m"]:
    """What each candidate adds, in double precision: near gains would else be told by rounding."""
    blocks = zip(k.split(COLUMNS, -1), covered.split(COLUMNS, -1), strict=True)
    parts = [
        (own - before.unsqueeze(-2)).clamp_min_(0).sum(-1, dtype=torch.float64)
        for own, before in blocks
    ]
    return torch.stack(parts).sum(0)


def by_diagonal(k: Float[Tensor, "*B n n"]) -> Float[Tensor, "*B n n"]:
    """A kernel such that every sample covers itself wholly: k_ij / sqrt(k_ii k_jj).

    Args:
        k: (…, n, n) symmetric and positive definite.

    Returns:
        (…, n, n), one on the diagonal.
    """
    scale = or_one(k.diagonal(dim1=-2, dim2=-1)).rsqrt()
    return k * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def covered_by(k: Float[Tensor, "*B m n"], chosen: Bool[Tensor, "*B m"]) -> Float[Tensor, "*B n"]:
    """How well each sample is covered by those that are chosen: max_i k_ij, zero where none is.

    Args:
        k: (…, m, n) not negative.
        chosen: (…, m) which of them.

    Returns:
        (…, n).
    """
    return (k * chosen.unsqueeze(-1)).amax(-2)

"""A step of soft k-means."""

from __future__ import annotations

import math

import torch

from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.soft_kmeans import soft_assign
from tests.support.tensors import FLOATS, B, C, D, N, normal, weights


def test_a_step_of_soft_k_means() -> None:
    """Ren et al. 2018, equation 4: p_c = (sum_i h_i w_ic + sum_j h_j z_jc) / (sum_i w_ic + sum_j
    z_jc).
    """
    z, w, pool = normal(B, N, D), weights(), torch.arange(N) >= 4
    w[:, 4:] = 0
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[2, 5:] = False
    first = prototypes(z, w)
    share = soft_assign(hide_absent(-squared_euclidean(z, first), w), mask & pool)
    got = prototypes(z, w + share)
    for b in range(B):
        top, bottom = [[0.0] * D for _ in range(C)], [0.0] * C
        live = [c for c in range(C) if w[b, :, c].sum() > 0]
        for i in range(N):
            distance = [
                sum(float(z[b, i, k] - first[b, c, k]) ** 2 for k in range(D)) for c in range(C)
            ]
            norm = sum(math.exp(-distance[c]) for c in live)
            for c in live:
                soft = math.exp(-distance[c]) / norm if i >= 4 and bool(mask[b, i]) else 0.0
                bottom[c] += float(w[b, i, c]) + soft
                for k in range(D):
                    top[c][k] += (float(w[b, i, c]) + soft) * float(z[b, i, k])
        for c in live:
            torch.testing.assert_close(
                got[b, c], torch.tensor(top[c], dtype=torch.float64) / bottom[c]
            )


@FLOATS
def test_soft_assign(dtype: torch.dtype, tolerance: float) -> None:
    logits, mask = normal(B, N, C) * 3, torch.ones(B, N, dtype=torch.bool)
    logits[1, :, 2] = -math.inf
    logits[2, 4] = -math.inf  # no class at all
    mask[0, 3] = False
    got = soft_assign(logits.to(dtype), mask)
    assert got.dtype == dtype and torch.isfinite(got).all()
    for b in range(B):
        for i in range(N):
            e = [math.exp(v) for v in logits[b, i].tolist()]
            row = [v / sum(e) if sum(e) and bool(mask[b, i]) else 0.0 for v in e]
            torch.testing.assert_close(
                got[b, i].double(), torch.tensor(row).double(), rtol=0, atol=max(tolerance, 1e-7)
            )
    huge = soft_assign(torch.tensor([[[1e30, -1e30, 0.0]]]), torch.ones(1, 1, dtype=torch.bool))
    assert huge.tolist() == [[[1.0, 0.0, 0.0]]]

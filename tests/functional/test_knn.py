"""Nearest neighbours against a loop."""

from __future__ import annotations

import pytest
import torch

from graphfsl.functional.knn import nearest
from tests.support.tensors import B, N, normal


@pytest.mark.parametrize("mutual", [False, True])
def test_nearest_neighbours_equal_a_loop(mutual: bool) -> None:
    a = normal(B, N, N).abs()
    found = nearest(a, 2, mutual)
    for b in range(B):
        best = [set(sorted(range(N), key=lambda j: -a[b, i, j])[:2]) for i in range(N)]
        for i in range(N):
            for j in range(N):
                either = [j in best[i], i in best[j]]
                assert found[b, i, j] == (a[b, i, j] if (all if mutual else any)(either) else 0)
    assert torch.equal(nearest(a, 50, mutual), a)

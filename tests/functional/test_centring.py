"""Centred features."""

from __future__ import annotations

import torch

from graphfsl.functional.centring import centred


def test_centred_features_have_length_one_and_see_only_the_mask() -> None:
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    found = centred(x, mask)
    unit = x[1] / x[1].norm(dim=-1, keepdim=True)
    v = unit - unit[:4].mean(0)
    torch.testing.assert_close(found[1], v / v.norm(dim=-1, keepdim=True))
    x[1, 4:] = 100.0
    torch.testing.assert_close(centred(x, mask)[1, :4], found[1, :4])

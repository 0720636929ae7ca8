"""Cosines with mixtures, against mixtures that are written down."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.functional.mixed_cosines import mixed_cosines


def test_mixtures_that_are_written_down_have_the_same_cosines() -> None:
    g = torch.Generator().manual_seed(0)
    x, v = (torch.randn(2, 7, 5, generator=g, dtype=torch.float64) for _ in range(2))
    a, s = (torch.randn(2, 4, 5, generator=g, dtype=torch.float64) for _ in range(2))
    share = torch.rand(2, 7, 4, generator=g, dtype=torch.float64)
    gain, shift = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(2))
    mixed = a.unsqueeze(1) + share.unsqueeze(-1) * (v.unsqueeze(2) - s.unsqueeze(1))
    normed = F.layer_norm(mixed, (5,), gain, shift)
    expected = F.cosine_similarity(x.unsqueeze(2), normed, dim=-1)
    torch.testing.assert_close(mixed_cosines(x, a, s, v, share, gain, shift), expected)

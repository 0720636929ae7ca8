"""Facts of TEEN."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.teen import TEEN


def episode() -> Episode:
    """Two base classes as means of three samples, and one new class of two."""
    g = torch.Generator().manual_seed(0)
    w = torch.zeros(1, 7, 3)
    w[0, 0, 0], w[0, 1, 1] = 3, 3
    w[0, 2:4, 2] = 1
    session = torch.tensor([[0, 0, 1]])
    return Episode(torch.randn(1, 7, 4, generator=g), w, 4, 3, relabeled=False, session=session)


def test_the_equation_and_base_means_that_stay_to_the_bit() -> None:
    given = episode()
    head = TEEN(alpha=0.3, tau=5.0)
    c = torch.stack([given.x[0, 0], given.x[0, 1], given.x[0, 2:4].mean(0)])[None]
    moved = head.calibrated(c, torch.tensor([[True, True, False]]))
    assert torch.equal(moved[0, :2], c[0, :2])
    unit = F.normalize(c[0], dim=-1)
    w = (5 * unit[2] @ unit[:2].T).softmax(-1)
    expected = 0.7 * unit[2] + 0.3 * F.normalize(w @ unit[:2], dim=-1)
    torch.testing.assert_close(moved[0, 2], expected)
    scores = head(given)
    torch.testing.assert_close(
        scores[0, :, 2], 16 * F.cosine_similarity(given.x[0, 4:], expected[None], dim=-1)
    )


def test_alpha_0_and_episodes_without_sessions_are_class_means() -> None:
    given = episode()
    plain = TEEN(alpha=0.0)(given)
    torch.testing.assert_close(TEEN(alpha=0.4)(given.replace(session=None)), plain)
    assert not torch.allclose(TEEN(alpha=0.4)(given), plain)

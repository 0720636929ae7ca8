"""PFENet's prior beside a loop over pixels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.pfenet import PFENet


def two_shots(cells: int = 6) -> Episode:
    """Two tasks of two support images and one query image, background and one class."""
    torch.manual_seed(0)
    x = torch.randn(2, 3 * cells, 5)
    w = torch.zeros(2, 3 * cells, 2)
    w[:, : 2 * cells] = torch.eye(2)[torch.randint(2, (2, 2 * cells))]
    return Episode(x, w, 2 * cells, cells, relabeled=False, cells=(2, cells // 2))


def test_the_prior_is_what_a_loop_over_pixels_finds() -> None:
    e = two_shots()
    p = PFENet().score(e)[:, 12:].softmax(-1)[..., 1]
    for b in range(2):
        of_shots = []
        for shot in range(2):
            own = [s for s in range(6 * shot, 6 * shot + 6) if e.w[b, s, 1] > 0]
            near = [
                max(float(F.cosine_similarity(e.x[b, q], e.x[b, s], dim=0)) for s in own)
                for q in range(12, 18)
            ]
            span = max(near) - min(near) + 1e-7
            of_shots.append([(c - min(near)) / span for c in near])
        right = torch.tensor(of_shots).mean(0)
        torch.testing.assert_close(p[b], right, atol=1e-4, rtol=1e-4)


def test_a_shot_that_does_not_show_the_class_has_no_say() -> None:
    e = two_shots()
    w = e.w.clone()
    w[:, 6:12] = torch.tensor([1.0, 0.0])
    without = e.with_tensors({"w": w})
    alone = Episode(
        torch.cat([e.x[:, :6], e.x[:, 12:]], 1),
        torch.cat([w[:, :6], w[:, 12:]], 1),
        *(6, 6),
        relabeled=False,
        cells=(2, 3),
    )
    found, right = PFENet().score(without)[:, 12:], PFENet().score(alone)[:, 6:]
    torch.testing.assert_close(found, right)


def test_a_query_that_is_the_support_has_its_mask_where_features_can_be_told() -> None:
    e = two_shots()
    x = torch.eye(2)[e.w[:, :6].argmax(-1)]
    same = Episode(
        torch.cat([x, x], 1),
        torch.cat([e.w[:, :6], torch.zeros(2, 6, 2)], 1),
        *(6, 6),
        relabeled=False,
        cells=(2, 3),
    )
    assert torch.equal(PFENet().score(same)[:, 6:].argmax(-1), e.w[:, :6].argmax(-1))

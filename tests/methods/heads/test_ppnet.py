"""PPNet: parts of a class, beside a loop and scikit-learn's k-means."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.panet import PANet
from graphfsl.methods.heads.ppnet import PPNet


def blobs() -> Episode:
    """Two tasks of two classes, each with three distant clumps of four nodes; 8 queries."""
    torch.manual_seed(0)
    centres = 10 * torch.randn(2, 2, 3, 1, 6)
    support = (centres + 0.1 * torch.randn(2, 2, 3, 4, 6)).flatten(1, 3)
    w = torch.zeros(2, 32, 2)
    w[:, :12, 0] = torch.rand(2, 12) + 0.1
    w[:, 12:24, 1] = torch.rand(2, 12) + 0.1
    return Episode(torch.cat([support, torch.randn(2, 8, 6)], 1), w, 24, 8, relabeled=False)


def test_a_single_part_is_the_class_mean() -> None:
    e = blobs()
    torch.testing.assert_close(PPNet(parts=1).score(e), PANet(20.0).score(e))


def test_scores_are_of_the_nearest_part_as_a_loop_finds_it() -> None:
    e = blobs()
    scores = PPNet(parts=3, whole=0.5).score(e)
    for b in range(2):
        for c in range(2):
            x, w = e.x[b, 12 * c : 12 * c + 12], e.w[b, 12 * c : 12 * c + 12, c]
            part = KMeans(3, n_init=10, random_state=0).fit_predict(x.numpy())
            mean = (w[:, None] * x).sum(0) / w.sum()
            near = []
            for k in range(3):
                own = torch.from_numpy(part == k)
                centre = (w[own, None] * x[own]).sum(0) / w[own].sum()
                near.append(F.cosine_similarity(e.x[b], (centre + 0.5 * mean)[None], dim=-1))
            right = 20 * torch.stack(near).amax(0)
            torch.testing.assert_close(scores[b, :, c], right, rtol=1e-4, atol=1e-4)


def test_a_class_of_fewer_nodes_than_parts_has_a_part_for_each() -> None:
    e = blobs()
    w = torch.zeros_like(e.w)
    w[:, 0, 0] = w[:, 4, 0] = w[:, 12, 1] = 1
    few = e.replace(x=e.x, w=w, relabeled=False)
    scores = PPNet(parts=5, whole=0).score(few)
    near = F.cosine_similarity(e.x[:, :, None], e.x[:, None, [0, 4, 12]], dim=-1)
    torch.testing.assert_close(scores[..., 0], 20 * near[..., :2].amax(-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[..., 1], 20 * near[..., 2], rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_support() -> None:
    e = blobs()
    x = e.x.clone().requires_grad_()
    PPNet(parts=3).score(e.with_tensors({"x": x}))[:, 24:].sum().backward()
    assert x.grad is not None and bool((x.grad[:, :24].abs().sum(-1) > 0).all())

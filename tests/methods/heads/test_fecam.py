"""Facts of FeCAM."""

from __future__ import annotations

import torch

from graphfsl.methods.heads.fecam import FeCAM
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import episodes
from tests.support.refusal import refused


def test_distances_are_mahalanobis_with_the_shrunk_covariance_of_base_classes() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(8)
    base = torch.randn(40, 64, generator=g, dtype=torch.float64)
    base = base * torch.linspace(0.2, 2, 64) + 3 * labels[:, None]
    head = FeCAM(64, gamma=0.5).double()
    head.fit_base(base, labels)
    residuals = base - base.view(5, 8, 64).mean(1)[labels]
    sigma = residuals.T @ residuals / 35
    shrunk = sigma + 0.5 * sigma.diagonal().mean() * torch.eye(64, dtype=torch.float64)
    given, _ = episodes(batch=1, unlabeled=0)
    given = given.replace(x=given.x.flatten(2), w=given.w, relabeled=False).to(dtype=torch.float64)
    scores = head(given)
    means = given.x[0, :6].view(3, 2, 64).mean(1)
    away = given.x[0, given.query][:, None] - means
    expected = -(away @ torch.linalg.inv(shrunk) * away).sum(-1) * sigma.diagonal().mean()
    torch.testing.assert_close(scores[0], expected)


def test_a_large_gamma_ranks_as_class_means_do() -> None:
    given, _ = episodes(unlabeled=0)
    given = given.replace(x=given.x.flatten(2), w=given.w, relabeled=False)
    head = FeCAM(64, gamma=1e6)
    head.fit_base(torch.randn(30, 64), torch.arange(30) % 3)
    plain = ProtoNet()(given)
    torch.testing.assert_close(head(given) * 1e6, plain, rtol=1e-3, atol=1e-2)
    with refused("fecam was built for features of length 64"):
        head.fit_base(torch.randn(30, 5), torch.arange(30) % 3)

"""SimpleShot: its transforms of features."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.testing import DIM
from tests.support.episodes import features


def test_simple_shot_transforms() -> None:
    episode = features(shot=3)
    base = torch.randn(50, DIM, dtype=torch.float64) + 2
    y = torch.arange(5).repeat(10)
    torch.testing.assert_close(SimpleShot(DIM, "un").score(episode), ProtoNet().score(episode))
    unit = episode.replace(x=F.normalize(episode.x, dim=-1))
    torch.testing.assert_close(SimpleShot(DIM, "l2n").score(episode), ProtoNet().score(unit))
    head = SimpleShot(DIM, "cl2n").double()
    assert head.wants_base and not SimpleShot(DIM, "l2n").wants_base
    head.fit_base(base, y)
    centered = episode.replace(x=F.normalize(episode.x - base.mean(0), dim=-1))
    torch.testing.assert_close(head.score(episode), ProtoNet().score(centered))


def test_simple_shot_subtracts_the_mean_of_features() -> None:
    """Equation 3: over the images of the base classes, of which one class may have more than
    another.
    """
    head, base = SimpleShot(DIM).double(), torch.randn(20, DIM, dtype=torch.float64)
    y = torch.tensor([0] * 15 + [1] * 5)
    head.fit_base(base, y)
    torch.testing.assert_close(head.mean, base.sum(0) / 20)
    means = torch.stack([base[y == c].mean(0) for c in range(2)]).mean(0)
    assert (head.mean - means).abs().max() > 0.05

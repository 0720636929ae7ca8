"""The nearest labeled node."""

from __future__ import annotations

import torch

from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from tests.support.episodes import features


def test_the_nearest_neighbor_counts_for_the_class_of_its_largest_weight() -> None:
    """A soft label of 0.7 and 0.3 is one of the first class; of 0.5 and 0.5, of both."""
    episode = features(batch=1, shot=1)
    w = episode.w.clone()
    w[0, 0], w[0, 1] = torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    d = -(episode.x[0, :, None] - episode.x[0, None, :3]).square().sum(-1)
    expected = torch.stack([d[:, 0], d[:, 1], torch.maximum(d[:, 1], d[:, 2])], -1)
    torch.testing.assert_close(NearestNeighbor().score(episode.replace(w=w))[0], expected)

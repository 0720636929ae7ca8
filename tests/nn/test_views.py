"""Views of images that are drawn once."""

from __future__ import annotations

import pytest
import torch

from graphfsl.io.errors import InputError
from graphfsl.nn.views import Moves, Views
from tests.support.inner_loops import order


def test_views_never_mirror_unless_asked() -> None:
    x, places = torch.rand(2, 3, 1, 8, 8), torch.arange(3).expand(2, 3)
    torch.testing.assert_close(Views(2, 2, Moves(0, 0, 0, flip=False))(x, places, 1, 1), x)
    flips = Views(40, 1, Moves(0, 0, 0, flip=True))
    found = torch.cat([flips(x, places, s, 0) for s in range(40)]).flatten(0, 1)
    plain = x.repeat(40, 1, 1, 1, 1).flatten(0, 1)
    mirrored = ((found - plain.flip(-1)).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert 0.3 < mirrored < 0.7
    assert mirrored + ((found - plain).abs().amax((1, 2, 3)) < 1e-5).float().mean() == 1
    features = torch.randn(2, 3, 6)
    assert flips(features, places, 0, 0) is features
    with pytest.raises(InputError, match=r"rotate in \[0, 90\)"):
        Moves(90, 0, 0)


def test_places_go_with_the_images_and_padding_comes_last() -> None:
    views, x = Views(1, 1, Moves(5, 0, 0)), torch.randn(1, 7, 1, 8, 8)
    everything = views.places(x, torch.ones(1, 7, dtype=torch.bool), 0)
    assert everything[0].argsort().tolist() == order(views, x[0], 0)
    shuffle = torch.randperm(7)
    assert torch.equal(
        views.places(x[:, shuffle], torch.ones(1, 7, dtype=torch.bool), 0), everything[:, shuffle]
    )
    real = torch.tensor([[True, False, True, True, False, True, True]])
    some = views.places(x, real, 0)
    assert some[~real].tolist() == [5, 6] and torch.equal(
        some[real], views.places(x[:, real[0]], real[:, real[0]], 0)[0]
    )

"""The GAN of images: what it draws is another image of the class that it is given."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.augment.dagan import DAGAN, UNet
from graphfsl.testing import SHAPE
from tests.support.image_worlds import squares


def test_the_net_keeps_any_size_and_looks_at_image_and_noise() -> None:
    for shape in ((1, 28, 28), (3, 9, 14)):
        net = UNet(shape, width=4, latent=5)
        x, z = torch.randn(2, *shape), torch.randn(2, 5)
        assert net(x, z).shape == x.shape
        assert not torch.equal(net(x, z), net(x, z + 1))
        assert not torch.equal(net(x, z), net(x + 1, z))


def test_it_learns_to_draw_images_of_the_class_that_it_is_given() -> None:
    images, labels = squares(classes=36, each=12, seed=0)
    shown, of = squares(classes=5, each=1, seed=1)
    torch.manual_seed(0)
    part = DAGAN(SHAPE, samples=20, latent=8, width=8, steps=80, rate=3e-3).eval()
    episode = Episode(shown[None], F.one_hot(of, 5).float()[None], 5, 0)
    assert part(episode) is episode, "before fit_base it adds nothing"

    part.fit_base(images, labels)
    drawn = part(episode).x[0, 5:]
    nearest = torch.cdist(drawn.unflatten(0, (5, 20)).flatten(2), shown.flatten(1)[None]).argmin(-1)
    assert (nearest == torch.arange(5)[:, None]).float().mean() > 0.7
    assert (drawn - shown.repeat_interleave(20, 0)).square().mean() < 0.05
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert not any(p.requires_grad for p in part.parameters())


def test_its_first_drawings_are_as_bright_as_base_images() -> None:
    """From grey on it came to draw nothing at all, once images were strokes on black."""
    images, labels = squares(classes=9, each=4)
    images[..., 0, 0] = 5  # base images need not lie between 0 and 1
    torch.manual_seed(0)
    part = DAGAN(SHAPE, latent=8, width=8, steps=1).eval()
    part.fit_base(images, labels)
    with torch.no_grad():
        drawn = part.draw(images[None, ::4], torch.randn(1, 9, 20, 8))
    assert float(drawn.mean() / images.mean()) == pytest.approx(1, abs=0.25)


def test_every_labeled_image_gets_images_of_its_own() -> None:
    torch.manual_seed(0)
    part = DAGAN(SHAPE, samples=3, width=4).eval()
    part.set_ready()
    x = torch.rand(1, 4, *SHAPE)
    w = F.one_hot(torch.tensor([0, 0, 1, 1]), 2).float()[None]
    grown = part(Episode(x, w, 4, 0))
    assert grown.n_support == 4 + 4 * 3
    by_hand = [
        part.from_noise(x[0, i, None], part.noise[j, None]) for i in range(4) for j in range(3)
    ]
    torch.testing.assert_close(grown.x[0, 4:], torch.cat(by_hand))

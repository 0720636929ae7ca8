"""The feature GAN: its losses by hand, what it learns, and that nothing is left to train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.methods.augment.f_clswgan import FCLSWGAN, wasserstein
from graphfsl.testing import DIM
from tests.support.base_classes import SPREAD, base_features


class Linear(nn.Module):
    """A critic whose gradient is known: 3 x_0 + 4 x_1."""

    def forward(self, xc: Tensor) -> Tensor:
        return 3 * xc[:, :1] + 4 * xc[:, 1:2]


def test_the_critic_compares_means() -> None:
    x, fake, c = torch.randn(3, 8, DIM)
    expected = (3 * x[:, 0] + 4 * x[:, 1] - 3 * fake[:, 0] - 4 * fake[:, 1]).mean()
    torch.testing.assert_close(wasserstein(Linear(), x, fake, c), expected)


def test_it_learns_in_which_directions_classes_spread() -> None:
    x, y, means = base_features(classes=20, each=50)
    torch.manual_seed(0)
    gan = FCLSWGAN(DIM, samples=200, hidden=128, latent=16, steps=300, rate=2e-3)
    episode = Episode(means[None, :5], torch.eye(5)[None], 5, 0)
    assert gan.eval()(episode) is episode, "before fit_base it adds nothing"
    gan.fit_base(x, y)
    drawn = gan(episode).x[0, 5:].view(5, 200, DIM)
    spread = drawn.std(1).mean(0)
    assert spread[0] > 3 * spread[-2:].max()
    assert 0.3 < spread.square().sum() / SPREAD.square().sum() < 2
    assert not any(p.requires_grad for p in gan.parameters())

"""Diffusion of features: the schedule, an exact denoiser, and what it learns."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.methods.augment.feature_diffusion import FeatureDiffusion, amplitudes
from graphfsl.testing import DIM
from tests.support.base_classes import SPREAD, base_features


def test_the_schedule_goes_from_the_difference_to_noise_and_keeps_the_variance() -> None:
    signal, noise = amplitudes(torch.linspace(0, 1, 101))
    assert signal[0] == noise[-1] == 1 and noise[0] == 0 and signal[-1].abs() < 1e-6
    assert (signal.diff() < 0).all()
    torch.testing.assert_close(signal.square() + noise.square(), torch.ones(101))


class OfAGaussian(FeatureDiffusion):
    """The best denoiser where differences from c are N(0, 4): E[v | r_t]."""

    def predicted(self, r: Tensor, t: Tensor, c: Tensor, shown: Tensor) -> Tensor:
        signal, noise = amplitudes(t)
        return signal * noise * (1 - 4) * r / (4 * signal.square() + noise.square())


def test_with_an_exact_denoiser_draws_have_the_true_spread() -> None:
    torch.manual_seed(0)
    part = OfAGaussian(DIM, samples=20_000, levels=200).eval()
    part.set_ready()
    drawn = part(Episode(torch.ones(1, 1, DIM), torch.ones(1, 1, 1), 1, 0)).x[0, 1:]
    torch.testing.assert_close(drawn.mean(0), torch.ones(DIM), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.std(0), 2 * torch.ones(DIM), atol=0.06, rtol=0)


def test_guidance_moves_away_from_what_is_drawn_without_the_condition() -> None:
    class Told(FeatureDiffusion):
        def predicted(self, r: Tensor, t: Tensor, c: Tensor, shown: Tensor) -> Tensor:
            return torch.ones_like(r) * (1 + shown)

    r, c = torch.zeros(1, 1, 1, DIM), torch.zeros(1, 1, DIM)
    one_level = {"samples": 1, "levels": 1}
    plain, guided = Told(DIM, **one_level), Told(DIM, **one_level, guidance=3.0)
    # v = 2 with c and 1 without: guided 2 + 3 (2 - 1) = 5; from t = 1 in one level r_0 = -v
    torch.testing.assert_close(plain.draw(c, r), torch.full_like(r, -2))
    torch.testing.assert_close(guided.draw(c, r), torch.full_like(r, -5))


def test_it_learns_in_which_directions_classes_spread() -> None:
    x, y, means = base_features(classes=20, each=50)
    torch.manual_seed(0)
    part = FeatureDiffusion(DIM, samples=300, hidden=64, steps=600)
    episode = Episode(means[None, :5], torch.eye(5)[None], 5, 0)
    assert part.eval()(episode) is episode, "before fit_base it adds nothing"
    part.fit_base(x, y)
    drawn = part(episode).x[0, 5:].view(5, 300, DIM)
    spread = drawn.std(1).mean(0)
    assert spread[:2].min() > 2 * spread[-2:].max()
    assert 0.5 < spread.square().sum() / SPREAD.square().sum() < 1.6
    assert not any(p.requires_grad for p in part.parameters())

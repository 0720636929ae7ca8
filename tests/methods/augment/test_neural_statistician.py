"""The set-VAE: its bound by hand, and that a class's few images say what is drawn."""

from __future__ import annotations

import torch
from torch import Tensor, distributions
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.augment.neural_statistician import NeuralStatistician, divergence, sample
from graphfsl.testing import SHAPE
from tests.support.image_worlds import squares


def normal(q: Tensor) -> distributions.Normal:
    mu, log_var = q.chunk(2, -1)
    return distributions.Normal(mu, (0.5 * log_var).exp())


def test_the_divergence_is_that_of_normal_distributions() -> None:
    q, p = torch.randn(2, 5, 8)
    expected = distributions.kl_divergence(normal(q), normal(p)).sum(-1)
    torch.testing.assert_close(divergence(q, p), expected)


def test_a_sample_has_the_mean_and_the_spread() -> None:
    q = torch.randn(8)
    drawn = sample(q, torch.randn(200_000, 4))
    torch.testing.assert_close(drawn.mean(0), normal(q).mean, rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(0), normal(q).stddev, rtol=0.02, atol=0)


def test_the_bound_is_a_loop_over_sets_and_images() -> None:
    torch.manual_seed(0)
    part = NeuralStatistician(SHAPE, code=3, latent=2, width=4).eval()
    sets = torch.rand(2, 3, *SHAPE)
    torch.manual_seed(1)
    found = part.bound(sets)

    torch.manual_seed(1)
    of_code, of_latent = torch.randn(2, 1, 3), torch.randn(2, 3, 2)
    total = torch.zeros(())
    for s, images in enumerate(sets):
        e = part.encode(images)
        q_c = part.statistic(e.mean(0))
        c = normal(q_c).mean + of_code[s, 0] * normal(q_c).stddev
        prior = distributions.Normal(torch.zeros(3), torch.ones(3))
        total = total + distributions.kl_divergence(normal(q_c), prior).sum()
        for i, image in enumerate(images):
            q_z, p_z = normal(part.infer(torch.cat([e[i], c]))), normal(part.prior(c))
            z = q_z.mean + of_latent[s, i] * q_z.stddev
            pixels = part.decode(torch.cat([c, z])[None])[0].sigmoid()
            total = total + F.binary_cross_entropy(pixels, image, reduction="sum")
            total = total + distributions.kl_divergence(q_z, p_z).sum()
    torch.testing.assert_close(found, total / 6, rtol=1e-4, atol=0)


def test_it_draws_new_images_of_the_class_that_it_is_shown() -> None:
    """Images are normalised: dark is -3."""
    low = -3.0
    images, labels = squares(classes=40, each=12, seed=0)
    shown, of = squares(classes=5, each=3, seed=1)
    images, shown = low + 4 * images, low + 4 * shown
    torch.manual_seed(0)
    part = NeuralStatistician(SHAPE, samples=20, code=8, latent=2, width=8, steps=300, rate=4e-3)
    part.eval()
    episode = Episode(shown[None], F.one_hot(of, 5).float()[None], len(of), 0)
    assert part(episode) is episode, "before fit_base it adds nothing"
    part.fit_base(images, labels)
    drawn = part(episode).x[0, len(of) :].unflatten(0, (5, 20))
    assert drawn.min() >= low - 1e-4
    assert drawn.max() <= low + 4 * 1.01
    patterns = shown.unflatten(0, (5, 3)).mean(1).flatten(1)
    nearest = torch.cdist(drawn.flatten(2), patterns[None]).argmin(-1)
    right = (nearest == torch.arange(5)[:, None]).float().mean()
    assert right > 0.7
    assert drawn.flatten(2).std(1).mean() > 0.02, "its images differ"
    assert not any(p.requires_grad for p in part.parameters())


def test_a_class_is_summed_up_by_all_its_images_at_once() -> None:
    """One sample and the mean of several are told apart: the condition is not ignored."""
    torch.manual_seed(0)
    part = NeuralStatistician(SHAPE, code=3, latent=2, width=4)
    x = torch.rand(1, 4, *SHAPE)
    w = F.one_hot(torch.tensor([0, 0, 0, 1]), 2).float()[None]
    codes, labels = part.conditions(Episode(x, w, 4, 0))
    expected = part.statistic(part.encode(x[0, :3]).mean(0))
    torch.testing.assert_close(codes[0, 0], expected)
    assert not torch.allclose(codes[0, 0], part.statistic(part.encode(x[0, :1])[0]))
    assert torch.equal(labels[0], torch.eye(2))

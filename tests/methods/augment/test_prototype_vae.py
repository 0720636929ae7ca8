"""The prototype VAE: its loss by a loop, and what it draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.feature_transform import FeatureTransform
from graphfsl.methods.augment.pool_clusters import PoolClusters
from graphfsl.methods.augment.prototype_vae import PrototypeVAE
from graphfsl.methods.heads.gnn import GNN
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features


def gnn() -> GNN:
    torch.manual_seed(0)
    return GNN(DIM, WAY, hidden=8).double().eval()


def means_of_the_others(episode: Episode) -> Tensor:
    """By a loop: of each support node, the mean of the other nodes of its class."""
    x, y = episode.x[:, episode.support], episode.w[:, episode.support].argmax(-1)
    found = torch.empty_like(x)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            others = [j for j in range(x.shape[1]) if j != i and y[b, j] == y[b, i]]
            found[b, i] = x[b, others].mean(0)
    return found


def test_one_shot_teaches_nothing() -> None:
    vae = PrototypeVAE(DIM).double()
    loss = torch.as_tensor(vae.aux_loss(features(shot=1)))
    gradients = torch.autograd.grad(loss, list(vae.parameters()))
    assert loss.item() == 0 and not any(g.any() for g in gradients)


def test_vae_without_samples_adds_nothing() -> None:
    episode = features()
    assert PrototypeVAE(DIM, samples=0)(episode) is episode


def test_vae_appends_weighted_nodes_of_every_class() -> None:
    episode = features()
    grown = PrototypeVAE(DIM, samples=4, weight=0.5).double().eval()(episode)
    assert grown.n_support == episode.n_support + 4 * WAY and grown.n_query == episode.n_query
    added = grown.w[:, episode.n_support : grown.n_support]
    assert torch.equal(added.sum(1), torch.full((2, WAY), 4 * 0.5).double())
    assert torch.equal(grown.x[:, grown.query], episode.x[:, episode.query])


def test_vae_generates_around_the_class_means() -> None:
    """A generator that gives nothing, g = 0, leaves p; one that gives b, p + b."""
    episode, vae = features(), PrototypeVAE(DIM, samples=2).double().eval()
    nn.init.zeros_(vae.generate[-1].weight)
    nn.init.constant_(vae.generate[-1].bias, 0.25)
    grown = vae(episode)
    added = grown.x[:, episode.n_support : grown.n_support]
    p = prototypes(episode.x, episode.w).repeat_interleave(2, 1)
    torch.testing.assert_close(added, p + 0.25)


def test_vae_loss_equals_a_loop() -> None:
    """||x - c - g||^2 / (2 s^2) + KL, g and q constants; c the mean of the other shots of the
    class, s^2 a tenth of the mean square of x - c.
    """
    episode, vae = features(shot=3), PrototypeVAE(DIM, latent=2).double()
    for layers, bias in ((vae.generate, [0.25] * DIM), (vae.infer, [0.5, -0.3, 0.2, -0.4])):
        nn.init.zeros_(layers[-1].weight)
        layers[-1].bias.data = torch.tensor(bias).double()
    x = episode.x[:, episode.support]
    c = means_of_the_others(episode)
    variance = 0.1 * (x - c).square().mean() + 1e-3 * x.square().mean()
    error = (x - c - 0.25).square().sum(-1).mean() / (2 * variance)
    kl = sum(0.5 * (m**2 + math.exp(v) - 1 - v) for m, v in ((0.5, 0.2), (-0.3, -0.4)))
    torch.testing.assert_close(vae.aux_loss(episode), error + kl)


def test_vae_draws_z_with_the_deviation_that_it_infers() -> None:
    """q = N(mu, sigma^2), log sigma^2 being what the network gives; a decoder that hands z on shows
    it.
    """
    episode, vae = features(shot=3), PrototypeVAE(DIM, latent=2).double()
    nn.init.zeros_(vae.infer[-1].weight)
    mu, log_var = torch.tensor([0.5, -0.3]).double(), torch.tensor([1.5, -2.0]).double()
    vae.infer[-1].bias.data = torch.cat([mu, log_var])
    vae.generate = nn.Linear(2 + DIM, DIM, bias=False).double()  # type: ignore[assignment]
    vae.generate.weight.data = F.pad(torch.eye(DIM, 2), (0, DIM)).double()
    x = episode.x[:, episode.support]
    c = means_of_the_others(episode)
    variance = 0.1 * (x - c).square().mean() + 1e-3 * x.square().mean()
    kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum()
    torch.manual_seed(3)
    found = vae.aux_loss(episode)
    torch.manual_seed(3)
    z = mu + log_var.exp().sqrt() * torch.randn(*x.shape[:2], 2, dtype=torch.float64)
    error = (x - c - F.pad(z, (0, DIM - 2))).square().sum(-1).mean() / (2 * variance)
    torch.testing.assert_close(found, error + kl)


def test_the_vae_learns_from_features_as_the_parts_in_front_leave_them() -> None:
    """It draws from those, and would know nothing of them."""
    episode, vae = features(shot=3), PrototypeVAE(DIM).double()
    front = FeatureTransform(DIM, power=0.5, centre=False), PoolClusters()
    net = Pipeline(augment=[*front, vae], head=ProtoNet()).double()
    torch.manual_seed(3)
    found = net.aux_loss(episode)
    torch.manual_seed(3)
    assert torch.equal(found, vae.aux_loss(front[1](front[0](episode))))


def test_the_vae_does_not_teach_the_encoder() -> None:
    """A generator must not win by features that are easy to generate: they are constants of its
    loss.
    """
    episode, vae = features(shot=3), PrototypeVAE(DIM).double()
    x = episode.x.clone().requires_grad_()
    loss = vae.aux_loss(episode.replace(x=x))
    (gradient,) = torch.autograd.grad(loss + 0 * x.sum(), x)
    assert not gradient.any()


def test_vae_dreams_anew_in_training_and_repeats_itself_afterwards() -> None:
    episode, vae = features(), PrototypeVAE(DIM, samples=2).double()
    first, second = (vae.train()(episode).x for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)
    first, second = (vae.eval()(episode).x for _ in range(2))
    assert torch.equal(first, second)


def test_vae_learns_the_spread_of_base_classes() -> None:
    """After `fit_base`, samples spread like real features (ratio 0.5 to 1.5), and beat the class
    mean at reconstruction."""
    g = torch.Generator().manual_seed(0)
    means, y = 3 * torch.randn(20, DIM, generator=g), torch.arange(20).repeat(50)
    x = means[y] + torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1]) * torch.randn(
        1000, DIM, generator=g
    )
    torch.manual_seed(0)
    vae = PrototypeVAE(DIM, samples=200, base_steps=1500)
    episode = Episode(means[None, :5], torch.eye(5)[None], 5, 0)
    assert not vae.eval()(episode).w[:, 5:].any(), "before fit_base it adds nothing"
    vae.fit_base(x, y)
    samples = vae(episode).x[0, 5:].view(5, 200, DIM)
    ratio = samples.var(1).mean(0).sum() / (x - means[y]).var(0).sum()
    assert 0.5 < ratio < 1.5
    assert samples.var(1).mean(0)[:3].min() > 5 * samples.var(1).mean(0)[3:].max(), (
        "directions are learned"
    )
    p = means[y]
    mu = vae.infer(torch.cat([x, p], -1)).chunk(2, -1)[0]
    assert (x - p - vae.generate(torch.cat([mu, p], -1))).square().mean() < (x - p).square().mean()


def base_and_supports() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """60 base classes along few directions; one sample of each of 400 others, and their means."""
    g = torch.Generator().manual_seed(1)
    directions = torch.randn(2, DIM, generator=g)

    def classes(n: int) -> Tensor:
        return 2 * torch.randn(n, 2, generator=g) @ directions

    means, y = classes(60), torch.arange(60).repeat(30)
    new = classes(400)
    x = means[y] + torch.randn(len(y), DIM, generator=g)
    return x, y, new + torch.randn(400, DIM, generator=g), new


def test_what_is_generated_from_one_sample_lies_nearer_to_its_class() -> None:
    """A decoder of single samples has learned to denoise them, one of class means has not."""
    x, y, samples, means = base_and_supports()
    torch.manual_seed(0)
    vae = PrototypeVAE(DIM, samples=64, base_steps=1500, others=1, averaged=True)
    vae.fit_base(x, y)
    drawn = vae.eval()(Episode(samples[None], torch.eye(400)[None], 400, 0)).x[0, 400:]
    of_sample = (samples - means).square().sum(-1).mean()
    assert (drawn - means).square().sum(-1).mean() < 0.75 * of_sample
    middle = (samples + drawn) / 2  # what a class mean becomes with equal weights
    assert (middle - means).square().sum(-1).mean() < 0.85 * of_sample


def test_codes_of_a_delta_encoder_are_those_of_base_pairs() -> None:
    x, y, _, _ = base_and_supports()
    vae = PrototypeVAE(DIM, samples=4, base_steps=5, delta=True)
    vae.fit_base(x, y)
    assert vae.codes is not None and vae.codes.any() and torch.equal(vae.fixed(), vae.codes[:4])
    drawn = vae.train().fresh(vae.noise.expand(2, 3, 4, -1))
    assert (drawn.flatten(0, 2)[:, None] == vae.codes).all(-1).any(1).all()


def test_delta_without_base_steps_is_refused() -> None:
    with pytest.raises(InputError, match="set base_steps"):
        PrototypeVAE(DIM, delta=True)


def test_vae_adds_nothing_to_any_head_before_fit_base() -> None:
    vae, head = PrototypeVAE(DIM, base_steps=5).double().eval(), gnn()
    episode = features(query=1)
    plain = head.score(episode)
    kept = [*range(episode.n_support), *range(-episode.n_query - episode.n_unlabeled, 0)]
    torch.testing.assert_close(head.score(vae(episode))[:, kept], plain, atol=1e-9, rtol=1e-9)

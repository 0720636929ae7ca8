"""The hallucinator: where it starts, what teaches it, and its control."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.hallucinator import Hallucinator
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import DIM
from tests.support.episodes import features, features_and_target


def test_it_starts_near_the_sample_itself() -> None:
    """So a learner of class means begins where it would be without it."""
    episode, part = features(shot=2), Hallucinator(DIM, samples=3).double()
    for mode in (True, False):
        grown = part.train(mode)(episode)
        torch.testing.assert_close(
            prototypes(grown.x, grown.w), prototypes(episode.x, episode.w), atol=0.02, rtol=0
        )


def disturbed(**options: bool) -> Hallucinator:
    torch.manual_seed(0)
    part = Hallucinator(DIM, samples=3, **options).double()
    nn.init.normal_(part.generate[-1].weight)
    return part.eval()


def test_a_draw_is_the_perceptron_of_sample_and_noise() -> None:
    episode, part = features(shot=1), disturbed()
    grown = part(episode)
    for i in range(episode.n_support):
        for j in range(3):
            x = episode.x[1, i]
            expected = x + part.generate(torch.cat([x, part.noise[j]]))
            found = grown.x[1, episode.n_support + 3 * i + j]
            torch.testing.assert_close(found, expected)


def test_without_noise_all_draws_are_alike() -> None:
    episode = features(shot=1)
    for noise in (True, False):
        grown = disturbed(noise=noise)(episode)
        new = grown.x[:, episode.n_support : grown.n_support].unflatten(1, (-1, 3))
        assert bool((new[:, :, 0] - new[:, :, 1]).abs().max() < 1e-9) is not noise


def test_the_loss_of_the_queries_teaches_it() -> None:
    torch.manual_seed(0)
    part = Hallucinator(DIM, samples=2, weight=1.0).double()
    learner = Pipeline(augment=part, head=ProtoNet()).train()
    episode, target = features_and_target(batch=8, shot=1, query=6)
    optimizer = torch.optim.Adam(part.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = learner.loss(episode, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_an_average_without_noise_is_refused() -> None:
    with pytest.raises(InputError, match="averaged=false"):
        Hallucinator(DIM, noise=False, averaged=True)

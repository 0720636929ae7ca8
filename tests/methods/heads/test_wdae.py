"""wDAE-GNN: denoised class weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.wdae import WDAE
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features_and_target
from tests.support.propagation import used


def class_means(episode: Episode) -> Tensor:
    return F.normalize(prototypes(F.normalize(episode.x, dim=-1), episode.w), dim=-1)


def test_wdae_without_a_residual_is_a_cosine_to_class_means() -> None:
    episode, _ = features_and_target()
    head = used(WDAE(DIM, scale=7.0))
    for parameter in head.last.parameters():
        nn.init.zeros_(parameter[:DIM])
    expected = 7 * F.cosine_similarity(
        episode.x.unsqueeze(2), class_means(episode).unsqueeze(1), dim=-1
    )
    torch.testing.assert_close(head.score(episode), expected)


def test_wdae_equals_a_loop() -> None:
    """Five classes with two neighbours each, one of a second task absent."""
    episode, _ = features_and_target(way=5)
    w = episode.w.clone()
    w[1, :, 3] = 0
    episode, head = episode.replace(w=w), used(WDAE(DIM, k=2))
    found, means = head.classifier(episode), class_means(episode)
    for b, there in enumerate([range(5), [0, 1, 2, 4]]):
        a = {}
        for i in there:
            near = sorted(
                (j for j in there if j != i), key=lambda j: -float(means[b, i] @ means[b, j])
            )[:2]
            e = {j: math.exp(5.0 * float(means[b, i] @ means[b, j])) for j in near}
            a[i] = {j: v / sum(e.values()) for j, v in e.items()}

        def message(layer: nn.Module, x: dict[int, Tensor], i: int, a=a) -> Tensor:
            terms = [
                v * F.leaky_relu(layer.norm(layer.linear(x[i] + x[j])[None])[0])
                for j, v in a[i].items()
            ]
            return torch.stack(terms).sum(0)

        x = {i: means[b, i] for i in there}
        h = {}
        for i in there:
            u = head.norm(head.update(torch.cat([x[i], message(head.messages[0], x, i)]))[None])[0]
            h[i] = torch.cat([x[i], F.normalize(F.leaky_relu(u), dim=0)]) / math.sqrt(2)
            torch.testing.assert_close(h[i].norm(), torch.tensor(1.0, dtype=torch.float64))
        for i in there:
            r, o = head.last(torch.cat([h[i], message(head.messages[1], h, i)])).chunk(2)
            torch.testing.assert_close(found[b, i], x[i] + o.sigmoid() * r / r.norm())


def test_wdae_draws_noise_while_it_trains() -> None:
    episode, _ = features_and_target()
    quiet = WDAE(DIM, noise=0.0, dropout=0.0).double().train()
    noisy = WDAE(DIM, noise=0.1, dropout=0.0).double().train()
    assert torch.equal(quiet.score(episode), quiet.score(episode))
    assert not torch.allclose(noisy.score(episode), noisy.score(episode), atol=1e-3)
    assert torch.equal(noisy.eval().score(episode), noisy.score(episode))


def test_neither_absent_classes_nor_pairs_that_are_not_neighbours_enter_the_statistics_of_wdae() -> (  # noqa: E501
    None
):
    episode, _ = features_and_target(way=5)
    w = episode.w.clone()
    w[1, :, 3] = 0
    episode, head = episode.replace(w=w), WDAE(DIM, k=2, noise=0.0, dropout=0.0).double().train()
    layer = head.messages[0]
    head.norm.momentum = layer.norm.momentum = 1.0
    head.score(episode)
    means, there = class_means(episode), present(w)
    near = head.neighbors(means, there)
    pairs = [layer.linear(means[b, i] + means[b, j]) for b, i, j in (near > 0).nonzero().tolist()]
    assert len(pairs) == 2 * 5 + 2 * 4
    torch.testing.assert_close(layer.norm.running_mean, torch.stack(pairs).mean(0))
    classes = head.update(torch.cat([means, layer(means, near)], -1))[there]
    assert len(classes) == 9
    torch.testing.assert_close(head.norm.running_mean, classes.mean(0))


def test_wdae_finds_neighbours_before_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    (episode, _), seen = features_and_target(), []
    head = WDAE(DIM, noise=0.5).double().train()
    neighbors = head.neighbors

    def noted(w: Tensor, there: Tensor) -> Tensor:
        seen.append(w)
        return neighbors(w, there)

    monkeypatch.setattr(head, "neighbors", noted)
    noisy, again = head.score(episode), head.score(episode)
    assert not torch.allclose(noisy, again, atol=1e-3)
    for w in seen:
        torch.testing.assert_close(w, class_means(episode))


def test_wdae_reconstructs_the_means_of_support_and_queries() -> None:
    episode, target = features_and_target()
    head, plain = used(WDAE(DIM, reconstruction=0.5)), used(WDAE(DIM, reconstruction=0.0))
    plain.load_state_dict(head.state_dict())
    scores = head.score(episode)
    cross_entropy = F.cross_entropy(scores[:, episode.query].flatten(0, 1), target.query.flatten())
    torch.testing.assert_close(plain.criterion(scores, target, episode), cross_entropy)
    found, errors = head.classifier(episode), []
    y = torch.cat([episode.w[:, episode.support].argmax(-1), target.query], 1)
    for b in range(2):
        for c in range(WAY):
            own = [F.normalize(episode.x[b, i], dim=0) for i in range(y.shape[1]) if y[b, i] == c]
            assert len(own) == 4
            goal = torch.stack(own).mean(0)
            errors.append((found[b, c] / found[b, c].norm() - goal / goal.norm()).square().sum())
    torch.testing.assert_close(
        head.criterion(scores, target, episode), cross_entropy + 0.5 * torch.stack(errors).mean()
    )


def test_what_wdae_reconstructs_is_no_moving_target() -> None:
    """Queries are in it as constants: the second loss has no gradient there."""
    episode, target = features_and_target()
    head, plain = used(WDAE(DIM, reconstruction=5.0)), used(WDAE(DIM, reconstruction=0.0))
    plain.load_state_dict(head.state_dict())
    gradients = []
    for model in (head, plain):
        x = episode.x.clone().requires_grad_()
        here = episode.replace(x=x)
        gradients.append(
            torch.autograd.grad(model.criterion(model.score(here), target, here), x)[0]
        )
    torch.testing.assert_close(gradients[0][:, episode.query], gradients[1][:, episode.query])
    assert not torch.allclose(gradients[0][:, episode.support], gradients[1][:, episode.support])


@pytest.mark.parametrize("options", [{"k": 0}, {"noise": -1.0}, {"dropout": 1.0}, {"scale": 0.0}])
def test_options_of_wdae(options) -> None:
    with pytest.raises(InputError, match="wdae"):
        WDAE(DIM, **options)

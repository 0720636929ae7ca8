"""TransMatch: MixMatch on imprinted weights, written with lists."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.methods.adapt.transmatch import TransMatch, guessed_loss, labeled_loss, mix, sharpen
from tests.support.inner_loops import (
    POOL,
    WAY,
    episode,
    logits,
    moved,
    net,
    objective,
    order,
    start,
)


def mixmatch(model: TransMatch, e: Episode, step: int) -> Tensor:
    """Algorithm 1 of MixMatch with lists."""
    n, pool, weight = model.net, e.x[0, e.unlabeled], start(model.net, e)  # type: ignore[arg-type]
    support, labels = e.x[0, e.support], e.w[0, e.support]
    views = [moved(pool, model.views, step, 1 + v) for v in range(2)]
    q = torch.stack([logits(n, v, weight).softmax(-1) for v in views]).mean(0)  # type: ignore[arg-type]
    q = q**2 / (q**2).sum(-1, keepdim=True)
    x = [*moved(support, model.views, step, 0), *views[0], *views[1]]
    y = [*labels, *q.detach(), *q.detach()]
    ordered, terms = order(model.views, torch.stack(x), step), {}
    for place, i in enumerate(ordered):
        j, share = ordered[(place + 1) % len(x)], float(model.share[step, place])
        mixed, goal = share * x[i] + (1 - share) * x[j], share * y[i] + (1 - share) * y[j]
        p = logits(n, mixed[None], weight)[0].softmax(-1)
        terms[i] = -(goal * p.log()).sum() if i < len(support) else (goal - p).square().sum() / WAY
    k = len(support)
    rest = torch.stack([terms[i] for i in range(k, len(x))]).mean() if len(pool) else 0.0
    return torch.stack([terms[i] for i in range(k)]).mean() + 5 * (step + 1) / model.steps * rest


@pytest.mark.parametrize("unlabeled", [0, POOL // WAY])
def test_transmatch_is_mixmatch_on_imprinted_weights(unlabeled: int) -> None:
    model, e = TransMatch(net(), steps=4).double(), episode(unlabeled)
    for step in (0, 2):
        torch.testing.assert_close(objective(model, e, step), mixmatch(model, e, step))
    assert (model.share >= 0.5).all() and (model.share < 1).all()


def test_sharpened_probabilities_are_powers_that_sum_to_one() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(sharpen(p, 0.5)[0], p[0] ** 2 / 0.38)
    torch.testing.assert_close(sharpen(p, 1.0), p)
    assert torch.equal(sharpen(p, 0.5)[1], p[1])


def test_a_mixed_image_is_between_its_own_and_its_partners() -> None:
    x = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    partner = torch.tensor([[1, 2, 0], [2, 0, 1]])
    share = torch.tensor([[1.0, 0.75, 0.5], [0.9, 0.8, 0.7]])
    mixed = mix(x, partner, share)
    for b in range(2):
        for i in range(3):
            own, other = x[b, i], x[b, partner[b, i]]
            expected = share[b, i] * own + (1 - share[b, i]) * other
            torch.testing.assert_close(mixed[b, i], expected)


def test_the_two_losses_of_mixmatch_are_means_over_real_nodes() -> None:
    g = torch.Generator().manual_seed(0)
    scores, target = torch.randn(1, 4, 3, generator=g), torch.rand(1, 4, 3, generator=g).softmax(-1)
    mask, classes = torch.tensor([[True, True, True, False]]), torch.tensor([[True, True, False]])
    log_p = scores[0, :3].log_softmax(-1)
    torch.testing.assert_close(
        labeled_loss(scores, target, mask), -(target[0, :3] * log_p).sum(-1).mean()
    )
    brier = (log_p.exp() - target[0, :3]).square().sum(-1).mean()
    torch.testing.assert_close(guessed_loss(scores, target, mask, classes), brier / 2)
    assert guessed_loss(scores, target, mask & False, classes) == 0


def test_guessed_labels_are_constants_for_the_inner_gradient() -> None:
    model, e = TransMatch(net(), steps=4).double(), episode()
    weight = model.net.encoder.conv.weight
    found, expected = (
        torch.autograd.grad(loss(model, e, 2), weight)[0] for loss in (objective, mixmatch)
    )
    torch.testing.assert_close(found, expected)

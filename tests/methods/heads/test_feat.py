"""FEAT: the set of class means transformed, and the authors' second loss."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.feat import FEAT
from graphfsl.testing import DIM, WAY, episodes
from tests.support.episodes import features


def test_feat_transforms_the_set_of_means() -> None:
    episode, head = features(shot=2), FEAT(DIM, temperature=3.0).double().eval()
    p = prototypes(episode.x, episode.w)
    a = ((p @ head.q.weight.T) @ (p @ head.k.weight.T).mT / DIM**0.5).softmax(-1)
    psi = head.norm(p + head.fc(a @ (p @ head.v.weight.T)))
    expected = -(episode.x[:, :, None] - psi[:, None]).square().sum(-1) / 3.0
    torch.testing.assert_close(head.score(episode), expected)
    assert head.adapt(p, present(episode.w).unsqueeze(1)).shape == p.shape


def attention(head: FEAT, z: Tensor) -> Tensor:
    """The authors' set function on one set (m, d), without dropout."""
    alpha = ((z @ head.q.weight.T) @ (z @ head.k.weight.T).T / DIM**0.5).softmax(-1)
    return F.layer_norm(z + head.fc(alpha @ (z @ head.v.weight.T)), (DIM,))


@pytest.mark.parametrize("unequal", [False, True])
def test_feat_second_loss_is_that_of_the_authors(unequal: bool) -> None:
    """Equation 9: the set function within each class, over its support and queries; the means of
    what it gives.
    """
    options = {"temperature": 3.0, "temperature2": 2.0}
    plain, both = (FEAT(DIM, balance=b, **options).double().eval() for b in (0.0, 0.7))
    both.load_state_dict(plain.state_dict())
    episode, (_, target) = features(shot=2), episodes(shot=2)
    if unequal:  # padding, in support and queries
        mask = episode.mask.clone()
        mask[0, 0] = mask[1, episode.n_support] = False
        episode = episode.replace(w=episode.w * mask.unsqueeze(-1), mask=mask)
        target = dataclasses.replace(
            target, query=target.query.masked_fill(~mask[:, episode.query], -100)
        )
    losses = []
    for b in range(2):
        support = episode.w[b, episode.support]
        labels = [int(w.argmax()) if w.sum() else -1 for w in support] + target.query[b].tolist()
        y = torch.tensor(labels)
        x = episode.x[b, : len(y)]
        centres = torch.stack([attention(plain, x[y == c]).mean(0) for c in range(WAY)])
        for i in (y >= 0).nonzero().flatten():
            logits = -(x[i] - centres).square().sum(-1) / 2.0
            losses.append(F.cross_entropy(logits, y[i]))
    scores = plain.score(episode)
    difference = both.criterion(scores, target, episode) - plain.criterion(scores, target, episode)
    torch.testing.assert_close(difference, 0.7 * torch.stack(losses).mean())


def test_feat_dropout_is_of_the_weights_and_of_what_is_added() -> None:
    """What the first dropout keeps of alpha is scaled up, the second one leaves the set itself
    alone.
    """
    z, everyone = torch.randn(1, 4, DIM), torch.ones(1, 1, 4, dtype=torch.bool)
    weights = FEAT(DIM, dropout=0.0, attention_dropout=0.5)
    alpha = (weights.q(z) @ weights.k(z).mT / DIM**0.5).softmax(-1)
    torch.manual_seed(1)
    found = weights.adapt(z, everyone)
    torch.manual_seed(1)
    torch.testing.assert_close(
        found, weights.norm(z + weights.fc(F.dropout(alpha, 0.5) @ weights.v(z)))
    )
    added = FEAT(DIM, dropout=0.9, attention_dropout=0.0)
    torch.manual_seed(1)
    found = added.adapt(z, everyone)
    torch.manual_seed(1)
    alpha = (added.q(z) @ added.k(z).mT / DIM**0.5).softmax(-1)
    torch.testing.assert_close(found, added.norm(z + F.dropout(added.fc(alpha @ added.v(z)), 0.9)))


def test_feat_begins_as_the_authors_does() -> None:
    head = FEAT(256)
    for linear in (head.q, head.k, head.v, head.fc):
        assert float(linear.weight.detach().std()) == pytest.approx(
            (2 / (256 + 256)) ** 0.5, rel=0.02
        )
        assert float(linear.weight.detach().abs().max()) > 4 * 256**-0.5, "normal, not uniform"
    assert (head.temperature, head.temperature2, head.balance) == (64, 32, 0.1)
    assert (head.dropout.p, head.attention_dropout.p) == (0.5, 0.1)


@pytest.mark.parametrize(
    "options", [{"temperature2": 0.0}, {"attention_dropout": 1.0}, {"balance": -1.0}]
)
def test_options_of_feat(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="temperature2 must be above 0"):
        FEAT(DIM, **options)

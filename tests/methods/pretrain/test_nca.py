"""Neighbourhood component analysis over the pairs of a batch."""

from __future__ import annotations

import torch

from graphfsl.methods.pretrain.nca import NCA
from tests.support.pretraining import batch, encode


def test_nca_equals_a_loop_over_pairs() -> None:
    x, y = batch(7)
    # the only one of its class: it has no pair, and stands in the denominators of the others
    y[0, 6] = 5
    z, t, terms = encode(x[0]), 2.0, []
    for i in range(6):
        e = [torch.exp(-(z[i] - z[j]).square().sum() / t) for j in range(7)]
        same = sum(e[j] for j in range(7) if j != i and y[0, j] == y[0, i])
        terms.append(-torch.log(same / sum(e[j] for j in range(7) if j != i)))
    torch.testing.assert_close(NCA(temperature=t)(encode, x, y), torch.stack(terms).mean())


def test_nca_has_a_gradient_where_a_row_has_no_pair() -> None:
    x, _ = batch(4)
    x.requires_grad_()
    NCA()(encode, x, torch.tensor([[0, 1, 2, 2]])).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_images_without_a_label_are_no_neighbours() -> None:
    x, y = batch(7)
    more, labels = torch.cat([x, x[:, :3] + 0.1], 1), torch.cat([y, torch.full((1, 3), -100)], 1)
    torch.testing.assert_close(NCA()(encode, more, labels), NCA()(encode, x, y))

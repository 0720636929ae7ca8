"""RePRI beside autograd, and what its terms do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine import repri
from graphfsl.methods.refine.repri import REPRI

CELLS = 12


def blobs(query_share: int = 6) -> Episode:
    """One task: a support image half of which is the class, and a query image of another share."""
    torch.manual_seed(0)
    means = torch.tensor([[1.0, 0.2, 0, 0], [0.2, 1.0, 0, 0]])
    columns = torch.tensor([0] * 6 + [1] * 6)
    of_query = torch.tensor([0] * (CELLS - query_share) + [1] * query_share)
    x = means[torch.cat([columns, of_query])] + 0.2 * torch.randn(2 * CELLS, 4)
    w = torch.cat([torch.eye(2)[columns], torch.zeros(CELLS, 2)])
    return Episode(x[None], w[None], CELLS, CELLS, relabeled=False, cells=(3, 4))


def by_autograd(e: Episode, steps: int, update: int) -> Tensor:
    """The probabilities (cells,) of the query's cells, of the paper's loss by torch.optim.SGD."""
    z = F.normalize(e.x[0], dim=-1)
    support, query, y = z[:CELLS], z[CELLS:], e.w[0, :CELLS, 1]
    w = ((y[:, None] * support).sum(0) / y.sum()).requires_grad_()
    b = F.cosine_similarity(query, w.detach()[None], dim=-1).mean().requires_grad_()
    descent = torch.optim.SGD([w, b], 0.025)

    def p_of(f: Tensor) -> Tensor:
        return (20 * (F.cosine_similarity(f, w[None], dim=-1) - b)).sigmoid()

    pi, weight = p_of(query).mean().detach(), 1.0
    for step in range(steps):
        if step == update:
            pi, weight = p_of(query).mean().detach(), 2.0
        p = p_of(query)
        mean = p.mean()
        kl = mean * (mean / pi).log() + (1 - mean) * ((1 - mean) / (1 - pi)).log()
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
        loss = F.binary_cross_entropy(p_of(support), y) + weight * kl + entropy
        descent.zero_grad()
        loss.backward()
        descent.step()
    return p_of(query).detach()


def test_the_descent_is_that_of_autograd() -> None:
    e, head = blobs(), ProtoNet()
    for steps, update in ((0, 10), (5, 10), (20, 10)):
        scores = REPRI(steps, update=update)(e, head.score(e), head)
        p = scores[0, CELLS:].softmax(-1)[:, 1]
        torch.testing.assert_close(p, by_autograd(e, steps, update), atol=1e-4, rtol=1e-3)


def test_it_tells_the_support_right_without_the_terms_of_the_query() -> None:
    e = blobs()
    z = F.normalize(e.x, dim=-1)
    support, query = z[:, :CELLS], z[:, None, CELLS:]
    y, one = e.w[:, :CELLS, 1:], torch.ones(1, 1, CELLS)
    part = REPRI(steps=300, update=999)
    start = part.start((y * support).sum(1, keepdim=True) / y.sum(), query, one)
    fitted = part.fitted(start, support, y, one[:, 0], query, one, torch.zeros(1))
    told = part.logits(support.unsqueeze(1), fitted)[0, 0, :, 0] > 0
    assert torch.equal(told, y[0, :, 0] > 0)


def test_the_true_size_moves_the_share_of_the_query_towards_it() -> None:
    e, part = blobs(query_share=2), REPRI(steps=50, update=999)
    z = F.normalize(e.x, dim=-1)
    support, query = z[:, :CELLS], z[:, None, CELLS:]
    y, one = e.w[:, :CELLS, 1:], torch.ones(1, 1, CELLS)
    start = part.start((y * support).sum(1, keepdim=True) / y.sum(), query, one)
    parts = (start, support, y, one[:, 0], query, one, torch.ones(1))

    def share_of(of: repri.Classifiers) -> float:
        return float(part.logits(query, of).sigmoid().mean())

    own = share_of(part.fitted(*parts))
    true = 2 / CELLS
    part._size = lambda *_: torch.full((1, 1, 1, 1), true)  # type: ignore[method-assign]
    told = share_of(part.fitted(*parts))
    assert abs(told - true) < abs(own - true) - 0.01


def test_each_query_image_is_answered_as_if_it_were_alone() -> None:
    e, head = blobs(), ProtoNet()
    other = torch.randn(1, CELLS, 4)
    two = Episode(
        torch.cat([e.x, other], 1),
        F.pad(e.w, (0, 0, 0, CELLS)),
        *(CELLS, 2 * CELLS),
        relabeled=False,
        cells=(3, 4),
    )
    alone = REPRI()(e, head.score(e), head)[:, CELLS:]
    beside = REPRI()(two, head.score(two), head)[:, CELLS : 2 * CELLS]
    torch.testing.assert_close(beside, alone)


def test_a_query_that_is_one_node_keeps_its_scores() -> None:
    e = Episode(torch.randn(1, 4, 5), torch.eye(2).repeat(2, 1)[None], 2, 2)
    scores = torch.randn(1, 4, 2)
    assert torch.equal(REPRI()(e, scores, ProtoNet()), scores)


def test_shots_are_images_that_show_a_class() -> None:
    labels = torch.zeros(1, 3 * CELLS, 3)
    labels[0, 0, 1] = labels[0, CELLS, 1] = labels[0, 2 * CELLS, 2] = 1
    assert repri.shots_of(labels, CELLS).tolist() == [1.5]
    assert repri.shots_of(0 * labels, CELLS).tolist() == [1.0]

"""PANet: cosine to masked means, and the alignment loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.functional.prototypes import prototypes
from graphfsl.methods.heads.panet import PANet
from graphfsl.methods.heads.protonet import ProtoNet


def episode() -> Episode:
    x = torch.randn(2, 12, 5)
    w = torch.zeros(2, 12, 2)
    w[:, :6] = torch.eye(2).repeat(3, 1)
    return Episode(x, w, 6, 6, relabeled=False, cells=(2, 3))


def test_its_scores_are_those_of_protonet_by_cosine() -> None:
    e = episode()
    torch.testing.assert_close(
        PANet(20.0).score(e), ProtoNet(distance="cosine", scale=20.0).score(e)
    )


def test_alignment_equals_a_loop() -> None:
    e, head = episode(), PANet(5.0)
    scores = head.score(e)
    total, count = 0.0, 0.0
    for b in range(2):
        answer = F.one_hot(scores[b, 6:].argmax(-1), 2).float()
        p = prototypes(e.x[b, 6:], answer)
        there = answer.sum(0) > 0
        for i in range(6):
            logits = 5 * F.cosine_similarity(e.x[b, i, None], p, dim=-1)
            logits = logits.masked_fill(~there, float("-inf"))
            for c in range(2):
                if there[c]:
                    total -= float(e.w[b, i, c] * logits.log_softmax(-1)[c])
                    count += float(e.w[b, i, c])
    torch.testing.assert_close(float(head.alignment(scores, e)), total / count)


def test_a_class_that_is_predicted_nowhere_costs_nothing() -> None:
    e = episode()
    scores = torch.zeros(2, 12, 2)
    scores[..., 0] = 1
    assert float(PANet().alignment(scores, e)) == 0


def test_its_gradient_reaches_the_features_of_the_query() -> None:
    e = episode()
    x = e.x.clone().requires_grad_()
    moved = e.with_tensors({"x": x})
    head = PANet()
    head.alignment(head.score(moved), moved).backward()
    assert x.grad is not None and bool(x.grad[:, 6:].abs().sum() > 0)

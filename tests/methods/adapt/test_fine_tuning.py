"""Fine-tuning with the entropy of the queries."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.methods.adapt.fine_tuning import FineTuning
from tests.support.inner_loops import episode, logits, net, objective, start


def test_fine_tuning_adds_the_entropy_of_the_queries() -> None:
    n, e = net(), episode()
    weight, y = start(n, e), e.w[0, e.support].argmax(-1)
    plain = F.cross_entropy(logits(n, e.x[0, e.support], weight), y)
    p = logits(n, e.x[0, e.query], weight).softmax(-1)
    expected = plain - 0.6 * (p * p.log()).sum(-1).mean()
    torch.testing.assert_close(objective(FineTuning(n, entropy=0.6), e), expected)
    inductive = FineTuning(n, entropy=0.0)
    torch.testing.assert_close(objective(inductive, e), plain)
    assert FineTuning(n).transductive and not inductive.transductive


def test_padding_has_no_part_in_the_mean_entropy() -> None:
    n, e = net(), episode()
    weight, y = start(n, e), e.w[0, e.support].argmax(-1)
    mask = e.mask.clone()
    mask[:, e.query.stop - 2 : e.query.stop] = False
    plain = F.cross_entropy(logits(n, e.x[0, e.support], weight), y)
    p = logits(n, e.x[0, e.query][:-2], weight).softmax(-1)
    expected = plain - (p * p.log()).sum(-1).mean()
    torch.testing.assert_close(objective(FineTuning(n), e.replace(mask=mask)), expected)

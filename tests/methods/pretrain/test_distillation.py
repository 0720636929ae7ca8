"""Distillation: a student follows its teacher."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.methods.pretrain.distillation import Distillation
from graphfsl.testing import DIM
from tests.support.pretraining import batch, encode


def test_distillation_follows_its_teacher() -> None:
    x, y = batch()
    objective = Distillation(DIM, 3, alpha=0.4, beta=0.6, temperature=4.0)
    hard = F.cross_entropy(objective.classifier(encode(x[0])), y[0])
    torch.testing.assert_close(objective(encode, x, y), hard)  # the first generation has none
    scores = torch.randn(8, 3)
    objective.teacher = lambda images: scores
    p, q = (scores / 4).softmax(-1), (objective.classifier(encode(x[0])) / 4).softmax(-1)
    kl = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(objective(encode, x, y), 0.4 * hard + 0.6 * 16 * kl)
    assert not [n for n, _ in objective.named_parameters() if "teacher" in n]

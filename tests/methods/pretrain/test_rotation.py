"""Rotations as a second task."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.methods.pretrain.rotation import Rotation
from graphfsl.testing import DIM
from tests.support.pretraining import batch, encode


def test_rotation_is_the_mean_over_four_turns() -> None:
    x, y = batch()
    objective = Rotation(DIM, 3, weight=0.5)
    turned = torch.stack([F.cross_entropy(objective.turn(encode(x[0].rot90(r, (-2, -1)))),
                                          torch.full((8,), r)) for r in range(4)])  # fmt: skip
    assert objective.classifier is not None
    expected = F.cross_entropy(objective.classifier(encode(x[0])), y[0]) + 0.5 * turned.mean()
    torch.testing.assert_close(objective(encode, x, y), expected)
    assert Rotation(DIM, 3, supervised=False).classifier is None

"""Pretraining with cross entropy, linear or by cosines."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.io.errors import InputError
from graphfsl.methods.pretrain.cross_entropy import CrossEntropy
from graphfsl.nn.classifier import CosineClassifier
from graphfsl.testing import DIM


def test_cosine_classifier() -> None:
    head = CosineClassifier(DIM, 4, scale=3.0)
    with torch.no_grad():
        head.lengths.copy_(torch.arange(1.0, 5.0))
    z = torch.randn(2, DIM)
    cos = F.cosine_similarity(z[:, None], head.directions[None], -1)
    torch.testing.assert_close(head(z), 3.0 * torch.arange(1.0, 5.0) * cos)
    with pytest.raises(InputError, match="unknown classifier 'cosin'; did you mean 'cosine'"):
        CrossEntropy(DIM, 3, classifier="cosin")

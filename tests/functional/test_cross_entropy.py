"""Cross entropy with absent classes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.functional.cross_entropy import cross_entropy


def test_cross_entropy_is_torchs_and_absent_classes_do_not_matter() -> None:
    scores, y = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    expected = F.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="none").view(2, 5)
    w = F.one_hot(y, 3).float()
    torch.testing.assert_close(cross_entropy(scores, w), expected)
    wide = F.pad(scores, (0, 1), value=float("-inf")).requires_grad_()
    loss = cross_entropy(wide, F.pad(w, (0, 1)))
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert wide.grad is not None and torch.isfinite(wide.grad).all()

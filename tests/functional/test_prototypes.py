"""Class means against a loop; absent classes are hidden."""

from __future__ import annotations

import math

import torch

from graphfsl.functional.prototypes import hide_absent, present, prototypes
from tests.support.tensors import FLOATS, B, C, D, N, naive_prototypes, normal, weights


@FLOATS
def test_prototypes(dtype: torch.dtype, tolerance: float) -> None:
    z, w = normal(B, N, D), weights()
    got = prototypes(z.to(dtype), w.to(dtype))
    assert got.dtype == dtype and not got[1, 2].any(), "a class without weight is at zero"
    torch.testing.assert_close(got.double(), naive_prototypes(z, w), rtol=tolerance, atol=tolerance)


def test_prototypes_ignore_padding_the_scale_of_weights_and_other_tasks() -> None:
    z, w = normal(B, N, D), weights()
    expected = prototypes(z, w)
    other = z.clone()
    other[2, 5:] = 1e6
    torch.testing.assert_close(prototypes(other, w), expected)
    torch.testing.assert_close(prototypes(z, 1e-9 * w), expected)
    torch.testing.assert_close(prototypes(z[1:2], w[1:2]), expected[1:2])


def test_prototypes_of_one_hot_labels_are_class_means() -> None:
    z, y = normal(B, N, D), torch.tensor([0, 1, 2, 3, 0, 1, 0])
    w = torch.nn.functional.one_hot(y, C).double().expand(B, -1, -1)
    means = torch.stack([z[:, y == c].mean(1) for c in range(C)], 1)
    torch.testing.assert_close(prototypes(z, w), means)
    # soft k-means: a one-hot assignment of the unlabeled half gives the means of both halves
    known = w * (torch.arange(N) < 4).view(1, N, 1)
    torch.testing.assert_close(prototypes(z, known + (w - known)), means)


def test_present_and_hide_absent() -> None:
    w = weights()
    expected = torch.tensor([[sum(w[b, :, c].tolist()) > 0 for c in range(C)] for b in range(B)])
    assert torch.equal(present(w), expected) and int((~expected).sum()) == 1
    for shape in ((B, N, C), (2, B, N, C)):  # a head may return one set of scores per layer
        scores = normal(*shape)
        hidden = hide_absent(scores, w)
        assert (hidden[..., 1, :, 2] == -math.inf).all()
        live = hidden != -math.inf
        assert (
            torch.equal(hidden[live], scores[live])
            and int((~live).sum()) == math.prod(shape) // B // C
        )
    assert (hide_absent(scores, w).softmax(-1)[..., 1, :, 2] == 0).all()

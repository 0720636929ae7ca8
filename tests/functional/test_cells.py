"""Labels of pixels as shares of cells, and scores of cells as pixels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.functional.cells import FLOOR, cell_shares, equal_images, pixel_log_probabilities


def test_a_share_is_the_mean_over_the_pixels_of_a_cell() -> None:
    w = torch.rand(2, 3, 8, 6)
    found = cell_shares(w, (4, 2))
    for row in range(4):
        for column in range(2):
            block = w[:, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            torch.testing.assert_close(found[:, :, row, column], block.mean((-1, -2)))


def test_each_image_of_a_class_weighs_the_same_and_their_sum_stays() -> None:
    shares = torch.rand(2, 3, 2, 4, 4)
    shares[0, 1, 1] = 0  # an image without the class
    found = equal_images(shares)
    of_image = found.sum((-1, -2))
    torch.testing.assert_close(of_image.sum(1), shares.sum((1, -1, -2)))
    shown = shares.sum((-1, -2)) > 0
    for b in range(2):
        for c in range(2):
            weights = of_image[b, :, c][shown[b, :, c]]
            torch.testing.assert_close(weights, weights.mean().expand_as(weights))
    assert of_image[0, 1, 1] == 0
    torch.testing.assert_close(equal_images(shares[:, :1]), shares[:, :1])


def test_pixels_of_as_many_cells_are_the_cells_and_absent_classes_have_the_floor() -> None:
    scores = torch.randn(1, 2, 4, 4, 3)
    scores[..., 2] = float("-inf")
    logs = pixel_log_probabilities(scores, (4, 4))
    torch.testing.assert_close(logs.movedim(2, -1)[..., :2], scores[..., :2].log_softmax(-1))
    assert (logs[:, :, 2] == FLOOR).all()
    larger = pixel_log_probabilities(scores, (8, 8))
    right = F.interpolate(logs[0], (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(larger[0], right)
    assert larger.isfinite().all()

"""Statistics of classes against numpy."""

from __future__ import annotations

import numpy as np
import torch

from graphfsl.functional.statistics import class_statistics


def test_class_statistics_are_those_of_numpy() -> None:
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(-1, 3, (30,))
    y[y == 1] = 2
    y[0] = 1  # a class of one sample
    mean, means, covariances = class_statistics(x, y, 4)
    torch.testing.assert_close(mean, x[y >= 0].mean(0))
    for c in (0, 2):
        torch.testing.assert_close(means[c], x[y == c].mean(0))
        torch.testing.assert_close(covariances[c], torch.from_numpy(np.cov(x[y == c].numpy().T)))
    torch.testing.assert_close(means[1], x[0])
    assert not covariances[1].any() and not means[3].any() and not covariances[3].any()

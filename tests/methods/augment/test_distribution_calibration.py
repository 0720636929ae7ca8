"""Distribution Calibration: the moments of what it draws, and its place in the paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.calibrate import Calibrate
from graphfsl.methods.augment.distribution_calibration import DistributionCalibration
from graphfsl.methods.augment.gaussian import Gaussian
from graphfsl.testing import DIM
from tests.support.base_classes import base_features

DRAWS = 20_000


def drawn(part: Gaussian | DistributionCalibration, sample: Tensor) -> Tensor:
    x, y, _ = base_features(classes=5, each=200)
    part.fit_base(x, y)
    episode = Episode(sample[None, None], torch.ones(1, 1, 1), 1, 0)
    return part.eval()(episode).x[0, 1:].double()


def moments_are(x: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within 4 standard errors of the mean, and 5 % of the covariance."""
    error = (covariance.diagonal() / len(x)).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * error + 1e-6).all()
    assert (torch.cov(x.mT) - covariance).norm() < 0.05 * covariance.norm()


def base_moments() -> tuple[Tensor, Tensor, Tensor]:
    x, y, _ = base_features(classes=5, each=200)
    means = torch.stack([x[y == c].mean(0) for c in range(5)]).double()
    own = torch.stack([torch.cov(x[y == c].double().mT) for c in range(5)])
    return means, own, own.mean(0)


@pytest.mark.parametrize("alpha", [0.0, 0.21])
@pytest.mark.parametrize("pooled", [0.0, 0.5])
def test_draws_have_the_mean_and_covariance_of_the_equations(alpha: float, pooled: float) -> None:
    torch.manual_seed(0)
    part = DistributionCalibration(DIM, samples=DRAWS, alpha=alpha, pooled=pooled)
    sample = torch.linspace(-1, 1, DIM)
    x = drawn(part, sample)
    means, own, together = base_moments()
    near = (means - sample).square().sum(1).argsort()[:2]
    covariance = (1 - pooled) * own[near].mean(0) + pooled * together + alpha
    moments_are(x, (means[near].sum(0) + sample) / 3, covariance)


def test_without_neighbors_it_is_the_gaussian() -> None:
    sample = torch.linspace(-1, 1, DIM)
    _, _, together = base_moments()
    for part in (
        DistributionCalibration(DIM, samples=DRAWS, neighbors=0),
        Gaussian(DIM, samples=DRAWS),
    ):
        torch.manual_seed(0)
        moments_are(drawn(part, sample), sample.double(), together)


def test_fewer_directions_keep_the_widest() -> None:
    torch.manual_seed(0)
    x = drawn(Gaussian(DIM, samples=DRAWS, rank=2), torch.zeros(DIM))
    _, _, together = base_moments()
    values, vectors = torch.linalg.eigh(together)
    widest = vectors[:, -2:] * values[-2:] @ vectors[:, -2:].mT
    moments_are(x, torch.zeros(DIM).double(), widest)


def test_its_mean_is_that_of_the_closed_form() -> None:
    """Averaged draws of many come to the mean that `calibrate` of the form nearest adds."""
    x, y, _ = base_features(classes=5, each=200)
    sample = torch.linspace(-1, 1, DIM)
    part = DistributionCalibration(DIM)
    part.fit_base(x, y)
    mean, _ = part.calibrated(sample[None, None])
    closed = Calibrate(DIM, "nearest")
    closed.fit_base(x, y)
    target = closed.target(Episode(sample[None, None], torch.ones(1, 1, 1), 1, 0))
    torch.testing.assert_close(mean[0, 0], (2 * target[0, 0] + sample) / 3)


@pytest.mark.parametrize("part", [Gaussian(DIM), DistributionCalibration(DIM)])
def test_before_it_has_seen_base_classes_it_adds_nothing(
    part: Gaussian | DistributionCalibration,
) -> None:
    episode = Episode(torch.ones(1, 2, DIM), torch.eye(2)[None], 2, 0)
    assert part.eval()(episode) is episode


def test_it_needs_as_many_base_classes_as_neighbors() -> None:
    x, y, _ = base_features(classes=2)
    with pytest.raises(InputError, match="needs 3 base classes or more, but there are 2"):
        DistributionCalibration(DIM, neighbors=3).fit_base(x, y)

"""Nuisance attribute projection: its equation, its invariants, its control."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.nuisance import Nuisance
from graphfsl.testing import DIM
from tests.support.base_classes import base_features
from tests.support.episodes import features


def test_the_widest_directions_inside_classes_are_gone() -> None:
    """V is that of the eigenvectors of the within-class scatter, and nothing is left along it."""
    x, y, _ = base_features()
    part = Nuisance(DIM, rank=2, unit=False)
    part.fit_base(x, y)
    means, row = class_means(x, y)
    residuals = (x - means[row]).double()
    vectors = torch.linalg.eigh(residuals.mT @ residuals)[1][:, -2:]
    v = part.basis.double()
    torch.testing.assert_close(v @ v.mT, vectors @ vectors.mT, atol=1e-4, rtol=1e-4)
    left = part.of_base(x)
    torch.testing.assert_close(left @ part.basis, torch.zeros(len(x), 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(left, x - x @ part.basis @ part.basis.mT)


def test_an_offset_along_a_nuisance_changes_no_answer() -> None:
    """Base classes vary along one direction alone; what moves along it moves nothing any more."""
    g = torch.Generator().manual_seed(0)
    nuisance = F.normalize(torch.randn(DIM, generator=g), dim=0)
    y = torch.arange(4).repeat_interleave(6)
    x = torch.randn(4, DIM, generator=g)[y] + torch.randn(24, 1, generator=g) * nuisance
    part = Nuisance(DIM, rank=1)
    part.fit_base(x, y)
    episode = features(shot=2)
    shifts = torch.randn(*episode.x.shape[:2], 1, generator=g).to(episode.x)
    moved = episode.replace(x=episode.x + shifts * nuisance.to(episode.x))
    torch.testing.assert_close(part(moved).x, part(episode).x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part(episode).x.norm(dim=-1), torch.ones_like(shifts[..., 0]))


def test_the_control_removes_as_many_directions_of_no_meaning() -> None:
    x, y, _ = base_features()
    torch.manual_seed(3)
    part = Nuisance(DIM, rank=2, directions="random")
    part.fit_base(x, y)
    torch.testing.assert_close(part.basis.mT @ part.basis, torch.eye(2), atol=1e-5, rtol=0)
    within = Nuisance(DIM, rank=2)
    within.fit_base(x, y)
    assert (part.basis.mT @ within.basis).norm() < 1.3  # 1.414 for the same plane


def test_mistakes_are_one_line() -> None:
    x, y, _ = base_features()
    with pytest.raises(InputError, match="rank must be from 1 to"):
        Nuisance(DIM, rank=DIM)
    with pytest.raises(InputError, match="did you mean 'within'"):
        Nuisance(DIM, directions="witin")
    means, row = class_means(x, y)
    with pytest.raises(InputError, match="do not vary in so many directions"):
        Nuisance(DIM).fit_base(means[row], y)
    with pytest.raises(InputError, match="built for features of length"):
        Nuisance(DIM + 1).fit_base(x, y)

"""Affine copies of the support."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.episode import Episode
from graphfsl.functional.affine import affine
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.affine_copies import AffineCopies

SHAPE = (1, 9, 9)


def test_copies_that_do_not_move_are_the_images() -> None:
    episode = Episode(torch.randn(1, 2, *SHAPE), torch.eye(2)[None], 2, 0)
    still = AffineCopies(SHAPE, samples=3, rotate=0, translate=0, scale=0, shear=0).eval()
    copies = still(episode).x[0, 2:].unflatten(0, (2, 3))
    torch.testing.assert_close(copies, episode.x[0, :, None].expand_as(copies))


def test_what_comes_in_is_as_dark_as_the_image_where_dark_is_not_zero() -> None:
    """Images that are normalised have a background below 0."""
    image = torch.full((1, 1, *SHAPE), -2.0)
    image[..., 3:6, 3:6] = 1
    moved = AffineCopies(SHAPE, samples=30, translate=0.4).eval()
    copies = moved(Episode(image, torch.ones(1, 1, 1), 1, 0)).x[0, 1:]
    assert copies.min() >= -2 - 1e-5
    assert copies.max() <= 1 + 1e-5
    corner = torch.stack([copies[..., i, j] for i in (0, -1) for j in (0, -1)])
    assert (corner + 2).abs().median() < 1e-5


def test_amounts_are_uniform_within_their_bounds() -> None:
    part = AffineCopies(SHAPE, samples=4000, translate=0.25, rotate=0, scale=0, shear=0).eval()
    ramp = torch.arange(9.0).expand(1, 1, 1, 9, 9).clone()
    copies = part(Episode(ramp, torch.ones(1, 1, 1), 1, 0)).x[0, 1:]
    shift = copies[:, 0, 4, 4] - ramp[0, 0, 0, 4, 4]  # in pixels, of 9
    assert shift.abs().max() <= 0.25 * 9 + 1e-4
    quarters = torch.quantile(shift, torch.tensor([0.25, 0.5, 0.75]))
    expected = 0.25 * 9 * torch.tensor([-0.5, 0.0, 0.5])
    torch.testing.assert_close(quarters, expected, rtol=0, atol=0.1)


def test_several_channels_are_moved_together() -> None:
    shape = (3, 9, 9)
    x = torch.rand(1, 1, *shape)
    part = AffineCopies(shape, samples=5, flip=True).eval()
    copies = part(Episode(x, torch.ones(1, 1, 1), 1, 0)).x[0, 1:]
    u = torch.erf(part.noise / 2**0.5).mT
    low = x[0].amin((-1, -2), keepdim=True)
    expected = low + affine((x[0] - low).expand(5, -1, -1, -1), u, 10, 0.08, 0.1, 10, True)
    torch.testing.assert_close(copies, expected)


def test_bounds_are_checked() -> None:
    with pytest.raises(InputError, match=r"affine_copies\.shear must be from 0 to 89, not 90"):
        AffineCopies(SHAPE, shear=90)

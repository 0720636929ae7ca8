"""Corruptions of images: other programs' answers, closed forms, and what holds for all of them."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from graphfsl.functional.corruptions import CORRUPTIONS, LEVELS, corrupted, uniforms_of

every_one = pytest.mark.parametrize("name", list(CORRUPTIONS))
SHAPE = (3, 32, 32)


def images(n: int = 3, channels: int = 3, side: int = 32) -> Tensor:
    """Random images, coarse and fine."""
    g = torch.Generator().manual_seed(0)
    total = torch.zeros(n, channels, side, side)
    for cells in (5, 16):
        grid = torch.rand(n, channels, cells, cells, generator=g)
        total += torch.nn.functional.interpolate(grid, side, mode="bilinear") / 2
    return total


def uniforms(name: str, x: Tensor, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    count = uniforms_of(name, (x.shape[1], x.shape[2], x.shape[3]))
    return torch.rand(len(x), max(count, 1), generator=g)


@every_one
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 28), (3, 45)])
def test_images_of_any_size_are_corrupted_each_by_itself(
    name: str, channels: int, side: int
) -> None:
    x = images(3, channels, side)
    u = uniforms(name, x)
    for level in range(1, LEVELS + 1):
        bad = corrupted(x, name, level, u)
        assert bad.shape == x.shape
        assert bad.min() >= 0 and bad.max() <= 1
        # the mildest blur is narrower than a pixel
        assert (bad - x).abs().max() > (1e-3 if level > 2 else 0)
        alone = corrupted(x[1:2], name, level, u[1:2])
        torch.testing.assert_close(alone, bad[1:2], atol=1e-5, rtol=1e-5)


# the first levels of elastic bend more as a whole, the last ones more finely; pixels that are a
# little larger move edges about as far as those that are much larger
@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n not in ("elastic", "pixelate")])
def test_the_last_level_is_worse_than_the_first(name: str) -> None:
    x = images(8)
    u = uniforms(name, x)
    first, last = ((corrupted(x, name, level, u) - x).square().mean() for level in (1, LEVELS))
    assert last > first


@pytest.mark.parametrize(
    "name", ["defocus_blur", "motion_blur", "zoom_blur", "pixelate", "elastic"]
)
def test_an_even_image_stays_as_it_is(name: str) -> None:
    x = torch.full((2, *SHAPE), 0.3)
    for level in (1, 3, 5):
        bad = corrupted(x, name, level, uniforms(name, x))
        torch.testing.assert_close(bad, x, atol=1e-5, rtol=1e-5)


def test_noise_has_the_spread_of_its_level() -> None:
    x = torch.full((20, *SHAPE), 0.5)
    for level, sigma in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        bad = corrupted(x, "gaussian_noise", level, uniforms("gaussian_noise", x))
        assert abs(float((bad - x).std()) - sigma) < 0.03 * sigma
    for level, photons in enumerate((500, 250, 100, 75, 50), start=1):
        bad = corrupted(x, "shot_noise", level, uniforms("shot_noise", x))
        sigma = (0.5 / photons) ** 0.5
        assert abs(float((bad - x).std()) - sigma) < 0.03 * sigma
    for level, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1):
        bad = corrupted(x, "impulse_noise", level, uniforms("impulse_noise", x))
        for value in (0, 1):
            assert abs(float((bad == value).float().mean()) - share / 2) < 0.003


def test_brightness_adds_value_in_the_colour_space_hsv() -> None:
    x = images(1)
    bad = corrupted(x, "brightness", 3, torch.zeros(1, 1))
    for row, column in [(0, 0), (7, 20), (31, 31)]:
        h, s, v = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
        right = colorsys.hsv_to_rgb(h, s, min(v + 0.15, 1))
        assert bad[0, :, row, column].tolist() == pytest.approx(right, abs=1e-5)


def test_contrast_pulls_each_channel_to_its_mean() -> None:
    x = images(2)
    bad = corrupted(x, "contrast", 4, torch.zeros(2, 1))
    torch.testing.assert_close(bad.mean((-2, -1)), x.mean((-2, -1)))
    torch.testing.assert_close(bad.std((-2, -1)), 0.3 * x.std((-2, -1)))


@pytest.mark.parametrize("level", [1, 3, 5])
def test_jpeg_is_that_of_pillow(level: int) -> None:
    """Of gray images, but for its cosines of whole numbers, which round some coefficients apart."""
    gray = (255 * images(1, 1)[0, 0]).round().to(torch.uint8)
    file = io.BytesIO()
    quality = (80, 65, 58, 50, 40)[level - 1]
    Image.fromarray(gray.numpy()).save(file, "JPEG", quality=quality)
    right = torch.from_numpy(np.asarray(Image.open(file)).astype(np.float32))
    bad = 255 * corrupted(gray[None, None] / 255, "jpeg", level, torch.zeros(1, 1))[0, 0]
    assert (bad - right).abs().mean() < 0.5
    assert (bad - right).abs().max() < 6
    assert (bad - gray).abs().max() > 3  # it did something


@pytest.mark.parametrize(("level", "few"), [(1, 30), (3, 27), (5, 20)])
def test_pixelate_is_that_of_pillow(level: int, few: int) -> None:
    x = images(1, 1)
    bad = corrupted(x, "pixelate", level, torch.zeros(1, 1))
    coarse = Image.fromarray(x[0, 0].numpy()).resize((few, few), Image.Resampling.BOX)
    right = np.asarray(coarse.resize((32, 32), Image.Resampling.BOX))
    np.testing.assert_allclose(bad[0, 0].numpy(), right, atol=1e-5)


def test_a_blur_has_the_width_of_its_disk() -> None:
    """The largest radius is one and a half pixels: a point becomes nine, about equal."""
    x = torch.zeros(1, 1, 32, 32)
    x[..., 16, 16] = 1
    bad = corrupted(x, "defocus_blur", 5, torch.zeros(1, 1))
    assert float(bad.sum()) == pytest.approx(1, abs=1e-5)
    assert float(bad[..., 15:18, 15:18].sum()) > 0.95
    assert float(bad[..., 16, 16]) == pytest.approx(1 / 9, abs=0.01)

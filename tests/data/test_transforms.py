"""Normalisation and augmentation: what each option does, and that an image's result is its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from graphfsl.data import Transform
from graphfsl.data.transforms import DRAWS
from graphfsl.io.errors import InputError

ALL: dict[str, Any] = {
    "rotate": 20,
    "translate": 0.1,
    "scale": 0.2,
    "shear": 10,
    "flip": True,
    "color": 0.4,
    "drop": 0.3,
}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def smooth(side: int = 33) -> Tensor:
    """(1, side, side) bytes: blobs on black without a symmetry, far from the border."""
    rows, columns = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    blobs = ((0.1, -0.3, 0.15, 1.0), (-0.25, 0.2, 0.1, 0.6), (0.3, 0.3, 0.12, 0.8))
    image = sum(
        a * np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / s**2 / 2) for r, c, s, a in blobs
    )
    return torch.from_numpy((255 * np.clip(image, 0, 1)).astype(np.uint8))[None]


def noise(x: Tensor, seed: int) -> Tensor:
    """Uniforms for the augmentation of images x (…, C, H, W)."""
    return torch.rand(*x.shape[:-3], DRAWS, generator=torch.Generator().manual_seed(seed))


def fixed(x: Tensor, *u: float) -> Tensor:
    """The same draws for every image, from numbers of [-1, 1]: turn, shear, two scales, two shifts,
    flip.
    """
    draws = torch.tensor([*u, *[0.0] * (DRAWS - len(u))], dtype=torch.float32)
    return ((draws + 1) / 2).expand(*x.shape[:-3], DRAWS)


@pytest.mark.parametrize(
    "shape",
    [(1, 8, 8), (5, 3, 8, 6), (2, 5, 1, 8, 8), (2, 2, 3, 3, 4, 4), (0, 3, 4, 4), (2, 0, 1, 4, 4)],
)
def test_bytes_become_shares_of_the_full_range(shape: tuple[int, ...]) -> None:
    x = images(*shape)
    out = Transform()(x)
    assert out.shape == x.shape and out.dtype == torch.float32 and torch.equal(out, x.float() / 255)
    assert not len(x.flatten()) or Transform(**ALL)(x, noise(x, 3)).shape == x.shape


def test_features_pass_through() -> None:
    x = torch.randn(2, 5, 7)
    assert Transform([0.5], [0.5], **ALL)(x, noise(x, 1)) is x


def test_normalisation() -> None:
    x, mean, std = images(4, 3, 5, 6), [0.2, 0.5, 0.7], [0.1, 0.2, 0.4]
    out = Transform(mean, std)(x).double()
    for c in range(3):
        torch.testing.assert_close(
            out[:, c], (x[:, c].double() / 255 - mean[c]) / std[c], rtol=1e-5, atol=1e-6
        )
    pixels = x.double().transpose(0, 1).flatten(1) / 255
    out = Transform(pixels.mean(1).tolist(), pixels.std(1).tolist())(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(out.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(1), torch.ones(3), rtol=0, atol=1e-5)


def test_plain_keeps_the_normalisation_only() -> None:
    x = images(4, 3, 8, 8)
    full = Transform([0.5] * 3, [0.2] * 3, **ALL)
    assert torch.equal(full.plain()(x, noise(x, 7)), Transform([0.5] * 3, [0.2] * 3)(x))
    assert not torch.equal(full(x, noise(x, 7)), full.plain()(x, noise(x, 7)))


@pytest.mark.parametrize("option", [*ALL, None])
def test_a_key_fixes_the_augmentation(option: str | None) -> None:
    x = images(2, 6, 3, 12, 12)
    transform = Transform(**(ALL if option is None else {option: ALL[option]}))
    torch.manual_seed(0)
    first = transform(x, noise(x, 5))
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(transform(x, noise(x, 5)), first) and not torch.equal(
        transform(x, noise(x, 6)), first
    )
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator must not move"
    assert torch.equal(
        Transform(**(ALL if option is None else {option: ALL[option]}))(x, noise(x, 5)), first
    )


@pytest.mark.parametrize("option", [*ALL, None])
def test_each_image_is_changed_by_itself(option: str | None) -> None:
    transform = Transform(**(ALL if option is None else {option: ALL[option]}))
    x = images(1, 3, 9, 9).expand(12, -1, -1, -1).clone()
    out = transform(x, noise(x, 2))
    kinds = len(torch.unique(out.flatten(1), dim=0))
    assert kinds == 2 if option == "flip" else kinds == 12
    other = x.clone()
    other[4] = 255 - other[4]
    changed = (transform(other, noise(other, 2)) != out).flatten(1).any(1)
    assert changed.tolist() == [k == 4 for k in range(12)]
    assert torch.equal(
        transform(x.view(3, 4, 3, 9, 9), noise(x.view(3, 4, 3, 9, 9), 2)).flatten(0, 1), out
    )


def test_flip_mirrors_half_of_the_images_left_to_right() -> None:
    x = images(400, 3, 7, 8)
    out, same = Transform(flip=True)(x, noise(x, 1)), x.float() / 255
    near = [
        torch.isclose(out, image, atol=1e-5).flatten(1).all(1) for image in (same, same.flip(-1))
    ]
    assert (near[0] ^ near[1]).all() and 150 < int(near[1].sum()) < 250


@pytest.mark.parametrize("channels", [1, 3])
def test_no_angle_is_no_change(channels: int) -> None:
    x = images(2, channels, 9, 9)
    u = fixed(x, 0, 0, 0, 0, 0, 0, 1)  # above 0 there is no flip
    torch.testing.assert_close(
        Transform(**ALL | {"color": 0.0, "drop": 0.0})(x, u), x.float() / 255, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("quarter", [1, -1, 2])
def test_quarter_turns(quarter: int) -> None:
    x = images(2, 3, 9, 9)
    u = fixed(x, quarter / 2)
    expected = torch.rot90(x.float() / 255, quarter, (2, 3))
    torch.testing.assert_close(Transform(rotate=180)(x, u), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "u",
    [
        (1, 0, 0, 0, 0, 0),
        (0, 1, 0, 0, 0, 0),
        (0, 0, 1, -1, 0, 0),
        (0, 0, 0, 0, 0.6, -1),
        (-0.7, 0.5, 0.3, -0.4, 0.2, 0.9),
    ],
)
def test_affine_is_scipys(u: tuple[float, ...]) -> None:
    side, x = 33, smooth()
    draws = fixed(x[None], *u, -1)
    got = (
        Transform(rotate=20, translate=0.1, scale=0.2, shear=10)(x[None], draws)[0, 0]
        .double()
        .numpy()
    )
    # From an output pixel to the input's, about the middle, in pixels and as (x, y).
    turn, shear = math.radians(20 * u[0]), math.tan(math.radians(10 * u[1]))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = rotation @ [[1, shear], [0, 1]] @ np.diag([1 / (1 + 0.2 * u[2]), 1 / (1 + 0.2 * u[3])])
    shift = 0.1 * side * np.array(u[4:6])
    swap = np.array([[0, 1], [1, 0]])  # scipy counts (row, column)
    matrix, shift, middle = swap @ matrix @ swap, swap @ shift, np.full(2, (side - 1) / 2)
    expected = ndimage.affine_transform(
        x[0].double().numpy() / 255,
        matrix,
        middle + shift - matrix @ middle,
        order=1,
        mode="grid-constant",
    )
    assert (
        np.abs(got - expected).max() < 2e-3 and np.abs(expected - x[0].numpy() / 255).max() > 0.05
    )


def test_augmentation_stays_within_its_bounds() -> None:
    x = smooth()[None].expand(300, -1, -1, -1)
    centre = np.array(
        [
            ndimage.center_of_mass(image[0].numpy())
            for image in Transform(translate=0.1)(x, noise(x, 3))
        ]
    )
    shift = (centre - ndimage.center_of_mass(x[0, 0].numpy())) / 33
    assert (
        np.abs(shift).max() < 0.105
        and np.abs(shift).max(0).min() > 0.09
        and np.abs(shift.mean(0)).max() < 0.01
    )
    mass = Transform(scale=0.2)(x, noise(x, 3)).sum((1, 2, 3)) / (x[0].sum() / 255)
    assert 0.6 < mass.min() < 0.75 and 1.3 < mass.max() < 1.46


def test_borders_are_black_for_drawings_and_mirrored_for_photographs() -> None:
    for channels, least in ((1, 0.0), (3, 1.0)):
        x = torch.full((50, channels, 9, 9), 255, dtype=torch.uint8)
        out = Transform(translate=0.3)(x, noise(x, 1))
        assert abs(float(out.min()) - least) < 1e-5


def test_color_is_brightness_contrast_and_saturation() -> None:
    x = images(40, 3, 6, 6)
    out = Transform(color=0.4)(x, noise(x, 9)).double()
    assert out.min() >= 0 and out.max() <= 1
    f = 0.6 + 0.8 * noise(x, 9).T[7:, :, None, None, None].double()
    bright = x.double() / 255 * f[0]
    middle = bright.mean((1, 2, 3), keepdim=True)
    contrast = middle + f[1] * (bright - middle)
    gray = contrast.mean(1, keepdim=True)
    torch.testing.assert_close(
        out, (gray + f[2] * (contrast - gray)).clamp(0, 1), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": [0.5]}, "together"),
        ({"std": [0.5]}, "together"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "one number for each channel"),
        ({"mean": [0.5], "std": [0.0]}, "above 0"),
        ({"rotate": -1}, "rotate"),
        ({"rotate": "10"}, "rotate"),
        ({"translate": float("nan")}, "translate"),
        ({"scale": 1.0}, "scale"),
        ({"shear": -5}, "shear"),
        ({"shear": 90}, "shear"),
        ({"color": 1.5}, "color"),
    ],
    ids=str,
)
def test_refuses(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Transform(**options)


def test_refuses_another_number_of_channels() -> None:
    with pytest.raises(InputError, match="for 3 channels, but the images have 1"):
        Transform([0.5] * 3, [0.5] * 3)(images(2, 1, 4, 4))

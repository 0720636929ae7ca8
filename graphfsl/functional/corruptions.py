"""The common corruptions of images, at five levels.

Hendrycks, Dietterich 2019, https://arxiv.org/abs/1903.12261
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CORRUPTIONS", "LEVELS", "corrupted", "uniforms_of"]

LEVELS = 5
SIDE = 32  # pixels of the images that the levels were made for; lengths grow with a longer side

# the luminance table of JPEG (ITU-T T.81, K.1), by which quality 50 divides the coefficients
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def corrupted(
    x: Float[Tensor, "N C H W"], name: str, level: int, u: Float[Tensor, "N k"]
) -> Float[Tensor, "N C H W"]:
    """Images in [0, 1], corrupted.

    Args:
        x: (N, C, H, W).
        name: one of `CORRUPTIONS`.
        level: from 1, the mildest, to 5.
        u: (N, k) uniforms in (0, 1), k as `uniforms_of` says; the same ones corrupt alike.

    Source:
        table and code of the paper's CIFAR-10-C, whose images have 32 pixels a side.

    Deviations:
        lengths grow with the side of larger images. Shot noise is the normal with the variance of
        the Poisson; motion blur, fog and elastic bending have other random fields of the same size;
        JPEG keeps all of the colour's pixels. Snow, frost (which is made of photographs) and glass
        blur (pixels swapped one after the other) are left out.
    """
    return CORRUPTIONS[name](x, u, level - 1).clamp(0, 1)


def uniforms_of(name: str, shape: tuple[int, int, int]) -> int:
    """How many uniforms an image (C, H, W) takes."""
    channels, height, width = shape
    needed = {
        "gaussian_noise": channels * height * width,
        "shot_noise": channels * height * width,
        "impulse_noise": channels * height * width,
        "motion_blur": 1,
        "fog": sum(cells**2 for cells in _octaves(height)),
        "elastic": 6 + 2 * height * width,
    }
    return needed.get(name, 0)


def _normal(u: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    return math.sqrt(2) * torch.erfinv(2 * u - 1)


def _gaussian_noise(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[i] * _normal(u).view_as(x)


def _shot_noise(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    photons = (500, 250, 100, 75, 50)[i]
    return x + (x / photons).sqrt() * _normal(u).view_as(x)


def _impulse_noise(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[i]
    u = u.view_as(x)
    return x.masked_fill(u < share / 2, 0.0).masked_fill(u > 1 - share / 2, 1.0)


def _defocus_blur(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    """The mean over a disk, its border smoothed."""
    radius, smooth = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[i]
    scale = max(1.0, x.shape[-1] / SIDE)
    radius, smooth = radius * scale, smooth * scale
    at = _pixels(math.ceil(radius + 2 * smooth), x)
    distance_squared = at.square() + at[:, None].square()
    disk = (distance_squared <= radius**2).to(x.dtype)
    smoothed_disk = _filtered(disk[None, None], _bell(at, smooth), outside="constant")[0, 0]
    return _filtered(x, smoothed_disk / smoothed_disk.sum())


def _pixels(reach: int, like: Float[Tensor, "*S"]) -> Float[Tensor, " k"]:
    """How far the pixels of a filter's row are from its middle: -reach, …, reach."""
    return torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)


def _bell(at: Float[Tensor, " k"], sigma: float) -> Float[Tensor, "k k"]:
    """A Gaussian filter that sums to 1."""
    row = (-0.5 * (at / max(sigma, 1e-6)).square()).exp()
    return torch.outer(row, row) / row.sum().square()


def _filtered(
    x: Float[Tensor, "N C H W"], kernel: Float[Tensor, "k k"], outside: str = "replicate"
) -> Float[Tensor, "N C H W"]:
    """Every channel convolved with a filter; `outside` the border it sees what F.pad makes."""
    reach = len(kernel) // 2
    rows = x.flatten(0, 1).unsqueeze(1)
    rows = F.pad(rows, (reach, reach, reach, reach), mode=outside)
    return F.conv2d(rows, kernel[None, None]).view_as(x)


def _motion_blur(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    """The weighted mean of the image moved along a line, each image along its own."""
    length, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[i]
    angle = math.pi / 2 * (u[:, 0] - 0.5)  # within 45 degrees of the horizontal
    weights = [math.exp(-0.5 * (t / sigma) ** 2) for t in range(length + 1)]
    total = torch.zeros_like(x)
    for t, weight in enumerate(weights):
        move = 2 * t / SIDE  # of a side of length 2
        total = total + weight * _moved(x, move * angle.cos(), move * angle.sin())
    return total / sum(weights)


def _moved(
    x: Float[Tensor, "N C H W"], right: Float[Tensor, " N"], down: Float[Tensor, " N"]
) -> Float[Tensor, "N C H W"]:
    """Images moved by shares of half a side."""
    still = torch.eye(2, 3, device=x.device, dtype=x.dtype).repeat(len(x), 1, 1)
    still[:, 0, 2], still[:, 1, 2] = -right, -down
    grid = F.affine_grid(still, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _zoom_blur(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    """The mean of the image and of itself enlarged by 0, 1, 2, … per cent."""
    factors = [1 + percent / 100 for percent in range((6, 11, 16, 21, 26)[i])]
    total = x
    for factor in factors:
        theta = torch.eye(2, 3, device=x.device, dtype=x.dtype) / factor
        grid = F.affine_grid(theta.repeat(len(x), 1, 1), list(x.shape), align_corners=False)
        total = total + F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return total / (len(factors) + 1)


def _octaves(height: int) -> list[int]:
    """Cells of a side of the grids whose sum is a field: 2, 4, 8, … up to the pixels."""
    return [2**k for k in range(1, max(1, math.ceil(math.log2(height))) + 1)]


def _fog(x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int) -> Float[Tensor, "N C H W"]:
    """A random field is added, and the brightest pixel stays as it was."""
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[i]
    field = _field(u, list(x.shape[-2:]), decay)
    brightest = x.amax((1, 2, 3), True)
    return (x + amount * field) * brightest / (brightest + amount)


def _field(u: Float[Tensor, "N k"], size: list[int], decay: float) -> Float[Tensor, "N 1 H W"]:
    """A random field from 0 to 1: a sum of enlarged grids, the finer the weaker by `decay`."""
    octaves = _octaves(size[0])
    of_octaves = u.split([cells**2 for cells in octaves], 1)
    field = u.new_zeros(len(u), 1, *size)
    for k, (cells, draws) in enumerate(zip(octaves, of_octaves, strict=True)):
        coarse = (draws - 0.5).view(len(u), 1, cells, cells)
        fine = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        field = field + fine / decay**k
    low, high = field.amin((1, 2, 3), True), field.amax((1, 2, 3), True)
    return (field - low) / (high - low)


def _brightness(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    """More value in the colour space HSV: the largest channel grows, hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    more = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[i]).clamp_max(1)
    return torch.where(value > 0, x * more / value.clamp_min(1e-6), more.expand_as(x))


def _contrast(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    mean = x.mean((-2, -1), keepdim=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[i] * (x - mean)


def _elastic(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    """An affine map of three points, then every pixel moved by a smooth random field."""
    amount, smooth, corner = (
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[i]
    n, _, height, width = x.shape
    # three points a third of the side from the middle move by at most `corner` of the side; what
    # follows is in halves of a side
    moves = 2 * corner * (2 * u[:, :6] - 1).view(n, 2, 3)
    points = x.new_tensor([[2 / 3, 2 / 3, 1.0], [2 / 3, -2 / 3, 1.0], [-2 / 3, -2 / 3, 1.0]])
    still = torch.eye(2, 3, device=x.device, dtype=x.dtype)
    theta = still + moves @ torch.linalg.inv(points).mT
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    if amount:
        field = (2 * u[:, 6:] - 1).view(n, 2, height, width)
        grid = grid + 2 * amount * _smoothed(field, smooth * height).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _smoothed(x: Float[Tensor, "N C H W"], sigma: float) -> Float[Tensor, "N C H W"]:
    """By a Gaussian, cut off at three deviations and at the border."""
    reach = min(math.ceil(3 * sigma), x.shape[-1] - 1)
    return _filtered(x, _bell(_pixels(reach, x), sigma))


def _pixelate(
    x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int
) -> Float[Tensor, "N C H W"]:
    """Fewer pixels, each the mean of those whose centres it covers, and back."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[i]
    for axis in (-2, -1):
        side = x.shape[axis]
        few = max(1, int(share * side))
        there = _boxes(side, few).to(x)
        back = _boxes(few, side).to(x)
        x = ((back @ there) @ x.movedim(axis, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, axis)
    return x


def _boxes(given: int, wanted: int) -> Float[Tensor, "wanted given"]:
    """The weights of `given` pixels of a side in each of `wanted`, as Pillow's filter BOX."""
    size = given / wanted
    middle = (torch.arange(wanted, dtype=torch.float64)[:, None] + 0.5) * size
    away = (torch.arange(given) + 0.5 - middle) / max(size, 1)
    covered = ((away > -0.5) & (away <= 0.5)).double()
    return covered / covered.sum(1, keepdim=True)


def _jpeg(x: Float[Tensor, "N C H W"], u: Float[Tensor, "N k"], i: int) -> Float[Tensor, "N C H W"]:
    """The cosine transform of 8 x 8 pixels, its coefficients rounded."""
    table = _quantization((80, 65, 58, 50, 40)[i]).to(x)
    basis = _cosine_basis().to(x)
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).transpose(3, 4)  # (…, 8, 8) last
    coefficients = basis @ (255 * blocks - 128) @ basis.mT
    rounded = table * (coefficients / table).round()
    blocks = (basis.mT @ rounded @ basis + 128) / 255
    whole: Tensor = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return whole[..., :height, :width]


def _quantization(quality: int) -> Float[Tensor, "8 8"]:
    """By what the coefficients of a block are divided before they are rounded."""
    percent = 200 - 2 * quality if quality >= 50 else 5000 / quality
    return ((torch.tensor(LUMINANCE) * percent + 50) / 100).floor().clamp(1, 255)


def _cosine_basis() -> Float[Tensor, "8 8"]:
    """The cosine transform of eight numbers: its rows have length 1 and are orthogonal."""
    k = torch.arange(8)
    basis = (math.pi / 8 * (k + 0.5) * k[:, None]).cos() / 2
    basis[0] /= math.sqrt(2)
    return basis


Corrupts = Callable[[Tensor, Tensor, int], Tensor]
CORRUPTIONS: dict[str, Corrupts] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}

"""Random pixels set to 0, on the device of the images and without a generator."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

WORD = 2**32
LEVELS = 2**24  # that a number of 32 bits tells apart in [0, 1)


def drop_pixels(
    x: Float[Tensor, "M ch h w"], u: Float[Tensor, " M"], share: float
) -> Float[Tensor, "M ch h w"]:
    """Set each pixel to 0 with a probability, in all channels alike.

    Which pixels these are is a function of u, the same on every device.

    Args:
        x: (M, ch, h, w) images.
        u: (M,) in [0, 1), one number for each image.
        share: the probability.

    Returns:
        (M, ch, h, w).
    """
    h, w = x.shape[2:]
    image = _mixed((u * LEVELS).long())
    pixel = torch.arange(h * w, device=x.device)
    word = _mixed((image.unsqueeze(1) + pixel) % WORD)  # (M, h * w)
    kept = word >= int(share * WORD)
    return x * kept.view(-1, 1, h, w)


def _mixed(z: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """A bijection of words of 32 bits that scatters neighbours: two xor-shifts and products.

    A product has less than 63 bits, so that nothing overflows.
    """
    for _ in range(2):
        z = ((z >> 16) ^ z) * 0x45D9F3B % WORD
    return (z >> 16) ^ z

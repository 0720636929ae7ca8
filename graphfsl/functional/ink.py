"""What of a gray image is ink, and what is paper."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Shaped


def ink_of(gray: Shaped[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Which pixels are brighter, or darker, than what is around: what most of the border is not.

    The threshold is Otsu's.

    Args:
        gray: (H, W) values in [0, 255].
    """
    bright = gray > otsu(gray)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return ~bright if border.mean() > 0.5 else bright


def otsu(gray: Shaped[np.ndarray, "H W"]) -> float:
    """The threshold that leaves the least variance inside both sides (Otsu 1979).

    Args:
        gray: (H, W) values in [0, 255].
    """
    counts, edges = np.histogram(gray, 256, (0, 256))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    if not np.isfinite(between).any():
        return float(gray.max())  # one value: nothing is above it
    return float(edges[int(np.nanargmax(between)) + 1]) - 1e-6

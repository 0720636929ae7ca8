"""`gaussian_process`: draws of a Gaussian process on a line, by formula; nothing is stored.

Garnelo et al. 2018, https://arxiv.org/abs/1807.01613, section 4.1

    y ~ GP(0, k),  k(x, x') = exp(-(x - x')^2 / (2 l^2)),  l = 0.4,  x in U[-2, 2]

Its episodes are those of `episode.task: functions`. Training, validation and test draw from one
distribution by random numbers of their own.

A draw is a sum of waves, so that a few numbers tell its value at any point:

    y(x) = sum_j sqrt(s_j) (a_j cos(w_j x) + b_j sin(w_j x)),  a_j, b_j ~ N(0, 1)

with s_j the share of the kernel's spectrum around w_j = 2 pi j / 8. Its kernel is then that of all
periods, sum_m k(x - x' + 8 m), which within the domain differs from k by 1e-21 at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri

from graphfsl.data.split import Split
from graphfsl.io.errors import unknown

SPLITS = ("train", "val", "test")
PERIOD = 8.0
WAVES = 32  # the share of the next one is below 1e-21


@dataclass(frozen=True)
class GaussianProcess:
    """Draws of a Gaussian process with a squared exponential kernel of variance 1."""

    dimensions: int = 1
    parameters: int = 2 * WAVES
    low: float = -2.0
    high: float = 2.0
    length: float = 0.4

    def draw(self, u: np.ndarray) -> np.ndarray:
        """Uniforms (B, 2 WAVES) -> the amplitudes of cosines and of sines (B, 2 WAVES)."""
        share = self._spectrum()
        amplitudes: np.ndarray = ndtri(u) * np.sqrt(np.concatenate([share, share]))
        return amplitudes

    def values(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Amplitudes (B, 2 WAVES), points (B, n, 1) -> values (B, n, 1)."""
        angle = x * (2 * np.pi / PERIOD * np.arange(WAVES))  # (B, n, WAVES)
        waves = np.concatenate([np.cos(angle), np.sin(angle)], -1)
        found: np.ndarray = waves @ parameters[..., None]
        return found

    def _spectrum(self) -> np.ndarray:
        """(WAVES,) the share of the variance that each wave has; of all but the first, twice."""
        w = 2 * np.pi / PERIOD * np.arange(WAVES)
        density = self.length / np.sqrt(2 * np.pi) * np.exp(-0.5 * (w * self.length) ** 2)
        share: np.ndarray = density * 2 * np.pi / PERIOD
        share[1:] *= 2  # waves of minus j as well
        return share


def load(split: str) -> Split:
    """One split: the process under the split's name."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    point, label = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    name = "gaussian_process"
    return Split(point, label, (name,), f"{name}/{split}", functions=GaussianProcess())

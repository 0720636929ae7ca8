"""`sinusoid`: sine waves of random amplitude and phase, drawn by formula; nothing is stored.

Finn, Abbeel, Levine 2017, https://arxiv.org/abs/1703.03400, section 5.1

    y = A sin(x - phi),  A in U[0.1, 5],  phi in U[0, pi],  x in U[-5, 5]

Its episodes are those of `episode.task: functions`. Training, validation and test draw from one
distribution by random numbers of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from graphfsl.data.split import Split
from graphfsl.io.errors import unknown

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sinusoids:
    """y = A sin(x - phi), with x in [low, high]."""

    dimensions: int = 1
    parameters: int = 2
    low: float = -5.0
    high: float = 5.0

    def draw(self, u: np.ndarray) -> np.ndarray:
        """Uniforms (B, 2) -> amplitude and phase (B, 2)."""
        amplitude = 0.1 + 4.9 * u[:, 0]
        phase = np.pi * u[:, 1]
        return np.stack([amplitude, phase], 1)

    def values(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Amplitude and phase (B, 2), points (B, n, 1) -> values (B, n, 1)."""
        amplitude, phase = parameters[:, 0, None, None], parameters[:, 1, None, None]
        found: np.ndarray = amplitude * np.sin(x - phase)
        return found


def load(split: str) -> Split:
    """One split: the family of sine waves under the split's name."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    point, label = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    return Split(point, label, ("sinusoid",), f"sinusoid/{split}", functions=Sinusoids())

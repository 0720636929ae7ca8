"""`Family`: functions that a data set draws by formula, in place of samples that it holds."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Family(Protocol):
    """Functions of points in a box, each told from the others by a few parameters.

    The box reaches from `low` to `high` along each of its `dimensions`.
    """

    @property
    def dimensions(self) -> int:
        """The length of a point."""

    @property
    def low(self) -> float:
        """The least coordinate of a point."""

    @property
    def high(self) -> float:
        """The largest coordinate of a point."""

    @property
    def parameters(self) -> int:
        """How many numbers tell one function from another."""

    def draw(self, u: np.ndarray) -> np.ndarray:
        """Uniforms (B, p) in (0, 1) -> the parameters (B, p) of B functions."""

    def values(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Parameters (B, p) and points (B, n, d) -> the functions' values (B, n, D)."""

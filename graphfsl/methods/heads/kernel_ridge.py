"""Kernel ridge regression, the mean of a Gaussian process.

Rasmussen, Williams 2006, https://gaussianprocess.org/gpml/
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.ridge import kernel_ridge
from graphfsl.io.errors import InputError, require

__all__ = ["KernelRidge"]


class KernelRidge(Head):
    """Fit a smooth function to the support's values in closed form.

        y(x) = k(x, X) (K + lambda I)^-1 Y,  k(a, b) = exp(-|a - b|^2 / (2 length^2))

    X are the features of the support, Y its values, K = k(X, X). Far from all of X it answers 0.

    Args:
        length: where the length scale starts; its logarithm is learned, so that it stays positive.
        lamda: where lambda starts, which is learned in the same way.

    Shapes:
        score: features (B, n, d), values (B, n, D) -> (B, n, D).

    Source:
        equation 2.25, with lambda for the variance of the noise.

    Deviations:
        length and lambda are learned by the error of queries, through the solution, in place of
        the marginal likelihood; so is an encoder before it.
    """

    answers = "values"

    def __init__(self, length: float = 1.0, lamda: float = 0.01) -> None:
        super().__init__()
        require(
            length > 0 and lamda > 0,
            f"kernel_ridge.length and lamda must be above 0, not {length} and {lamda}",
        )
        self.log_length = nn.Parameter(torch.tensor(math.log(length)))
        self.log_lamda = nn.Parameter(torch.tensor(math.log(lamda)))

    def score(self, episode: Episode) -> Tensor:
        """Values (B, n, D) of all nodes of an episode of features."""
        if episode.values is None:
            raise InputError("this learner answers with values, but the episode is of classes")
        labeled = episode.labeled
        x = episode.x / self.log_length.exp()
        similarity = (-0.5 * squared_euclidean(x, x[:, labeled])).exp()
        weight, y = episode.w[:, labeled, 0], episode.values[:, labeled]
        dual = kernel_ridge(similarity[:, labeled], weight, y, self.log_lamda.exp())
        return similarity @ dual

"""Conditional neural processes: a function from a mean over what is known of it.

Garnelo et al. 2018, https://arxiv.org/abs/1807.01613
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from graphfsl.core.episode import Episode, ValueTarget
from graphfsl.core.learner import Head
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import InputError, require
from graphfsl.nn.mlp import relu_layers

__all__ = ["CNP"]

LEAST = 0.1  # of a standard deviation


class CNP(Head):
    """Answer with mean and standard deviation, from the mean of an embedding of the known points.

        r_i = h(x_i, y_i) of each known point,  r = mean of r_i
        (mu, s) = g(x, r),  sigma = 0.1 + 0.9 softplus(s)
        L = -mean log N(y | mu, sigma^2) over queries and known points

    h and g are perceptrons. Where nothing is known, r is 0.

    Args:
        dim: d, the length of the features.
        outputs: D, the length of a value.
        width: of all layers and of r.
        layers: of h; g has one less.

    Shapes:
        score: features (B, n, d), values (B, n, D) -> (2, B, n, D): standard deviations, and as the
            answer the means.

    Source:
        section 2.2, and section 4.1 for the sizes; sigma is that of the authors' code.

    Deviations:
        the paper draws the number of known points for each batch; here it is the task's `shot`.
    """

    family = "metric"
    answers = "values"
    tells_scale = True

    def __init__(self, dim: int, outputs: int = 1, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        require(
            outputs >= 1 and width >= 1 and layers >= 2,
            f"{type(self).__name__.lower()}: outputs and width must be 1 or more, layers 2 or "
            f"more, not {outputs}, {width} and {layers}",
        )
        self.outputs = outputs
        self.h = relu_layers(dim + outputs, *[width] * layers)
        self.g = relu_layers(dim + width, *[width] * (layers - 2), 2 * outputs)

    def representation(self, episode: Episode, r: Tensor, known: Tensor) -> Tensor:
        """What each node is told of the function.

        Args:
            episode: of features (B, n, d).
            r: (B, k, width) embeddings of the nodes that may be known.
            known: (B, k, 1) 1 where they are, 0 elsewhere.

        Returns:
            (B, n, width).
        """
        mean = (known * r).sum(1, keepdim=True) / or_one(known.sum(1, keepdim=True))
        return mean.expand(-1, episode.x.shape[1], -1)

    def score(self, episode: Episode) -> Tensor:
        """Standard deviations and means (2, B, n, D) of all nodes of an episode of features."""
        if episode.values is None:
            raise InputError("this learner answers with values, but the episode is of classes")
        require(
            episode.values.shape[-1] == self.outputs,
            f"{type(self).__name__.lower()}.outputs is {self.outputs}, but values are of "
            f"{episode.values.shape[-1]} numbers; set learner.head.outputs",
        )
        labeled = episode.labeled
        known = (episode.w[:, labeled] > 0).to(episode.x.dtype)
        y = known * episode.values[:, labeled]
        r = self.h(torch.cat([episode.x[:, labeled], y], -1))
        told = self.representation(episode, r, known)
        mu, s = self.g(torch.cat([episode.x, told], -1)).chunk(2, -1)
        return torch.stack([LEAST + (1 - LEAST) * F.softplus(s), mu])

    def criterion(self, scores: Tensor, target: ValueTarget, episode: Episode) -> Tensor:
        """Minus the mean log-likelihood of queries and known points: a scalar."""
        assert episode.values is not None
        sigma, mu = scores
        end = episode.query.stop
        y = torch.cat([episode.values[:, episode.support], target.query], 1)
        counts = (episode.w[:, :end, 0] > 0) & episode.mask[:, :end]
        counts[:, episode.query] = episode.mask[:, episode.query]
        nats = Normal(mu[:, :end], sigma[:, :end], validate_args=False).log_prob(y).sum(-1)
        return -torch.where(counts, nats, 0).sum() / counts.sum()

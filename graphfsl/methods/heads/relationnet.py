"""Relation Networks: a small network compares a query with each class.

Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018, https://arxiv.org/abs/1711.06025
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm, statistics
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent, present
from graphfsl.io.errors import require, unknown

__all__ = ["RelationNet"]


class RelationNet(Head):
    """Learn how alike a query and a class are, from their feature maps side by side.

        r_ic = g_phi([sum_k f(x_ck); f(x_i)])      (equation 1)
        L = sum (r_ic - 1[y_i = c])^2      (equation 2)

    g is two blocks of convolution, BatchNorm, ReLU and pooling, then two linear layers and a
    sigmoid. The sum over shots is of maps.

    Args:
        maps: (channels, h, w) of the encoder's feature maps.
        loss: "mse", the paper's, or "ce", cross-entropy of the relations before the sigmoid.
        shots: "sum", the paper's, which ties a network to the shots that it was trained with; or
            "mean", for any number.
        width: filters.
        hidden: of the linear layers.

    Shapes:
        score: feature maps (B, n, ch, h, w), label weights (B, n, C) -> relations before the
            sigmoid (B, n, C). BatchNorm: the authors never leave training mode, so that their
            statistics are those of the support, of the query batch and of the pairs, each for
            itself: that is the policy `apart` (transductive); `running` answers every query alone.
            The relation module follows the pipeline's policy.

    Source:
        equations 1 and 2, and the authors' code for the layers; published Omniglot 99.6 / 99.8 /
        97.6 / 99.1.

    Deviations:
        the mean of the squares instead of their sum; convolutions are padded and a map of one pixel
        is not pooled, so that maps of any size will do; the encoder starts as the pipeline's does,
        not as theirs; a batch of tasks of different way counts absent classes in training
        statistics.
    """

    wants_maps = True
    follows_batch_norm = True

    def __init__(
        self,
        maps: tuple[int, ...],
        loss: str = "mse",
        shots: str = "sum",
        width: int = 64,
        hidden: int = 8,
    ) -> None:
        super().__init__()
        for option, value, known in (
            ("loss", loss, ("mse", "ce")),
            ("shots", shots, ("sum", "mean")),
        ):
            if value not in known:
                raise unknown(option, value, known)
        self.mse, self.mean = loss == "mse", shots == "mean"
        require(
            len(maps) == 3,
            f"relationnet reads feature maps (C, h, w), not samples of shape {tuple(maps)}",
        )
        channels, *size = maps
        self.support_conv = nn.Conv2d(channels, width, 3, padding=1)
        self.query_conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.second_conv = nn.Conv2d(width, width, 3, padding=1)
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(2))
        h, w = (max(1, s // 2) for s in size)
        h, w = max(1, h // 2), max(1, w // 2)
        self.linear = nn.Sequential(
            nn.Linear(width * h * w, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )
        self.initialise()

    def initialise(self) -> None:
        """Start as the authors do.

        Convolutions are N(0, 2 / (9 filters)) without bias, linear layers N(0, 0.01^2) with ones.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (9 * module.out_channels)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.ones_(module.bias)

    def score(self, episode: Episode) -> Tensor:
        """Relation scores (B, n, C) of each node and each class, before the sigmoid."""
        b, n = episode.x.shape[:2]
        w = episode.w
        if self.mean:
            w = w / w.sum(1, keepdim=True).where(present(w).unsqueeze(1), 1)
        support = torch.einsum("bnc,bn...->bc...", w, episode.x)
        # A convolution of [s; q] is the sum of one of s and one of q: each map is convolved once,
        # not once per pair.
        s = self.support_conv(support.flatten(0, 1)).unflatten(0, (b, -1))
        q = self.query_conv(episode.x.flatten(0, 1)).unflatten(0, (b, n))
        with self.policy(episode):
            # (B*n, C, ch, h, w)
            r = self.block(self.norms[0], (s[:, None] + q[:, :, None]).flatten(0, 1), episode)
            r = self.second_conv(r.flatten(0, 1)).unflatten(0, r.shape[:2])
            r = self.block(self.norms[1], r, episode)
        return hide_absent(self.linear(r.flatten(2)).view(b, n, -1), episode.w)

    def policy(self, episode: Episode) -> AbstractContextManager[None]:
        """A context in which BatchNorm follows the pipeline's policy for this episode."""
        return (
            nullcontext() if self.batch_norm == "running" else statistics(self.batch_norm, episode)
        )

    def block(self, norm: nn.Module, pairs: Tensor, episode: Episode) -> Tensor:
        """BatchNorm, ReLU and pooling of the maps of all pairs of a node and a class.

        The classes of a node are places of its row.

        Args:
            norm: the BatchNorm.
            pairs: (B*n, C, ch, h, w)
            episode: whose nodes these are.

        Returns:
            (B*n, C, ch, h/2, w/2), or (B*n, C, ch, h, w) where that is too small to be pooled.
        """
        mask = None
        # stored averages are those of queries beside classes, as they will be met
        if self.training:
            mask = torch.zeros_like(episode.mask)
            mask[:, episode.query] = episode.mask[:, episode.query]
            mask = mask.flatten()
        pairs = F.relu(norm(pairs.transpose(1, 2), mask)).transpose(1, 2)
        if min(pairs.shape[-2:]) < 2:
            return pairs
        pooled: Tensor = F.max_pool2d(pairs.flatten(0, 1), 2).unflatten(0, pairs.shape[:2])
        return pooled

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """The mean squared error of relations, or with `loss: ce` cross-entropy: a scalar."""
        if not self.mse:
            return super().criterion(scores, target, episode)
        real = (target.query >= 0).unsqueeze(-1) & present(episode.w).unsqueeze(-2)  # (B, Q, C)
        match = F.one_hot(target.query.clamp_min(0), episode.way)
        error = (scores[:, episode.query].sigmoid() - match).square() * real
        return error.sum() / real.sum()

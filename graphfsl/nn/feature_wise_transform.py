"""Feature-wise transformation (FWT): noise on channels that stands for domains not yet seen.

Tseng, Lee, Huang, Yang 2020, https://arxiv.org/abs/2001.08735
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphfsl.core.schema import make
from graphfsl.io.errors import require

__all__ = ["FeatureWiseTransform", "transform_feature_wise"]


class FeatureWiseTransform:
    """Scale and shift each channel of each image at random, while an encoder is trained.

        y = (1 + n_1 s(gamma)) x + n_2 s(beta),  n_1, n_2 ~ N(0, 1)
        s(v) = log(1 + e^(100 v)) / 100

    behind every BatchNorm, with draws of its own for each image and channel, the same at all places
    of a map. In evaluation x is left as it is, to the bit.

    Args:
        gamma: how far scales vary, before s, which only keeps it from falling below 0.
        beta: how far shifts vary, before s.

    Source:
        equations 3 and 4, and the authors' code for the 100 in s; gamma 0.3 and beta 0.5 are the
        values that they choose by hand.

    Deviations:
        gamma and beta are the same in all layers and stay as they are; the paper's LFT learns them
        on several training domains.
    """

    def __init__(self, gamma: float = 0.3, beta: float = 0.5) -> None:
        self.scale, self.shift = _softplus(100 * gamma) / 100, _softplus(100 * beta) / 100

    def __call__(self, norm: nn.Module, inputs: Any, x: Tensor) -> Tensor:
        """What a BatchNorm gives (M, C, *S), transformed where it is being trained."""
        if not norm.training:
            return x
        shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
        n_1 = torch.randn(shape, dtype=x.dtype, device=x.device)
        n_2 = torch.randn(shape, dtype=x.dtype, device=x.device)
        return (1 + n_1 * self.scale) * x + n_2 * self.shift


def _softplus(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def transform_feature_wise(encoder: nn.Module, options: Any) -> None:
    """Put a transform behind each BatchNorm of an encoder, in place; weights keep their names.

    Args:
        encoder: any with BatchNorm.
        options: true, or a mapping of those of `FeatureWiseTransform`.

    Raises:
        InputError: for other options, and where there is no BatchNorm.
    """
    require(
        options is True or isinstance(options, Mapping),
        "learner.encoder.feature_wise must be true or a mapping such as {gamma: 0.3, beta: 0.5}, "
        f"not {options!r:.60}",
    )
    given = {} if options is True else dict(options)
    transform: Any = make(FeatureWiseTransform, given, "learner.encoder.feature_wise")
    norms = [m for m in encoder.modules() if isinstance(m, _BatchNorm)]
    require(
        norms,
        "learner.encoder.feature_wise transforms what BatchNorm gives, and this encoder has none; "
        "choose another one, such as conv4",
    )
    for norm in norms:
        norm.register_forward_hook(transform)

"""A classifier of cosines, tuned by gradient descent with directions of length 1."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def tuned_cosines(
    w: Float[Tensor, "*B C d"],
    z: Float[Tensor, "*B m d"],
    share: Float[Tensor, "*B m C"],
    seen: Bool[Tensor, "*B C"],
    steps: int,
    lr: float,
    scale: float,
    momentum: float = 0.0,
    decay: float = 0.0,
) -> Float[Tensor, "*B C d"]:
    """Directions w after `steps` of descent along the cross-entropy of samples.

        L(w) = -sum_i sum_c share_ic log softmax_c(scale <w_c, z_i>)
        v <- momentum v + (gradient of L at w) + decay w,  w <- normalised (w - lr v)

    Args:
        w: (B, C, d) where they start, of length 1.
        z: (B, m, d) samples of length 1.
        share: (B, m, C) how much each sample counts for each class; its sum over m and C is 1.
        seen: (B, C) the classes that are told apart; other directions stay.
        steps: how many.
        lr: their size.
        scale: of the cosine.
        momentum: of the velocity v.
        decay: weight decay.
    """
    weight = share.sum(-1, keepdim=True)
    velocity = torch.zeros_like(w)
    for _ in range(steps):
        logits = (scale * z @ w.mT).masked_fill(~seen.unsqueeze(-2), torch.finfo(w.dtype).min)
        error = weight * logits.softmax(-1) - share  # (B, m, C), zero of classes not seen
        slope = scale * error.mT @ z + decay * w
        velocity = momentum * velocity + slope
        w = F.normalize(w - lr * velocity, dim=-1)
    return w

"""Features around their common mean."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def centred(x: Float[Tensor, "*B n d"], mask: Bool[Tensor, "*B n"]) -> Float[Tensor, "*B n d"]:
    """Scale features to length 1, take their mean away, and scale them to length 1 again.

    Args:
        x: (…, n, d) features.
        mask: (…, n) the nodes whose mean is taken.

    Returns:
        (…, n, d), of all nodes.
    """
    v, real = F.normalize(x, dim=-1), mask.unsqueeze(-1)
    mean = v.where(real, 0).sum(-2, keepdim=True) / real.sum(-2, keepdim=True).clamp_min(1)
    return F.normalize(v - mean, dim=-1)

"""The loss of an answer that is a sibling of the right class: how improbable is their parent?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def sibling_loss(
    scores: Float[Tensor, "B Q C"], y: Int[Tensor, "B Q"], siblings: Bool[Tensor, "B C C"]
) -> Float[Tensor, ""]:
    """-log sum_{c in siblings of y} p_c, the mean over all queries that are of a class.

    p = softmax(scores), and a class is a sibling of itself: without another it is cross-entropy.

    Args:
        scores: of the queries; a class that is absent scores minus infinity.
        y: the class column of each query, below 0 for one that counts for nothing.
        siblings: of task b whether classes c and d have the same parent.

    Returns:
        a scalar in nats; 0 where no query counts.
    """
    truth = y.clamp_min(0).unsqueeze(-1).expand(*y.shape, scores.shape[-1])
    counted = siblings.gather(1, truth)
    log_p = scores.log_softmax(-1).masked_fill(~counted, float("-inf"))
    nats = -log_p.logsumexp(-1)
    real = y >= 0
    return torch.where(real, nats, 0).sum() / real.sum().clamp_min(1)

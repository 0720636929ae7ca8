"""k-means of many tasks at once, which starts without chance.

centres = the samples that, taken greedily, bring all samples nearest to one of them
repeat:  each sample joins its nearest centre;  each centre moves to the mean of its samples
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.coverage import greedy_coverage
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.statistics import or_one


def kmeans(
    z: Float[Tensor, "*B n d"],
    mask: Bool[Tensor, "*B n"],
    clusters: Int[Tensor, " *B"],
    most: int,
    steps: int = 20,
) -> Int[Tensor, "*B n"]:
    """The cluster of each sample, by k-means from greedily chosen samples.

    Args:
        z: (…, n, d) features.
        mask: (…, n) which samples are real.
        clusters: (…) how many of each task.
        most: the largest of these, or more.
        steps: at the most; samples that rest stay where they are.

    Returns:
        (…, n) in 0 .. clusters - 1; of padding any.

    Source:
        Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489. The start is the greedy one of Arthur,
        Vassilvitskii 2007, https://dl.acm.org/doi/10.5555/1283383.1283494, with every sample as a
        candidate in place of a few at random.
    """
    d = squared_euclidean(z, z)
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    near = (d.masked_fill(~both, 0).amax((-2, -1), keepdim=True) - d).masked_fill(~both, 0)
    nothing = torch.zeros_like(near[..., 0, :])
    first, _ = greedy_coverage(near, mask, most, nothing)
    centres = z.gather(-2, first.unsqueeze(-1).expand(*first.shape, z.shape[-1]))
    beyond = torch.arange(most, device=z.device) >= clusters.unsqueeze(-1)

    def nearest(centres: Tensor) -> Tensor:
        apart = squared_euclidean(z, centres).masked_fill(beyond.unsqueeze(-2), float("inf"))
        return apart.argmin(-1)

    for _ in range(steps):
        member = F.one_hot(nearest(centres), most).to(z.dtype) * mask.unsqueeze(-1)
        size = member.sum(-2).unsqueeze(-1)
        mean = member.mT @ z / or_one(size)
        centres = mean.where(size > 0, centres)
    return nearest(centres)

"""How well masks were found: sums over episodes, of which ratios are made at the end.

A mean of the overlaps of single images would let a small object count as much as a large one; the
field's numbers are ratios of sums over all episodes.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BINS = 2048  # of the sign of presence, by its logit
LARGEST = 17.0  # logit of a float32 next to 1


def overlap_sums(
    answer: Int[Tensor, "B Q H W"], truth: Int[Tensor, "B Q H W"], classes: Float[Tensor, "B N S"]
) -> Float[Tensor, "B k"]:
    """Intersection and union of every class of a split, over an episode's queries.

    I_c = sum |P and G|, U_c = sum |P or G|. A class that a query does not show counts, too: what is
    answered with it enlarges its union.

    Args:
        answer: the column of each pixel, 0 for the background.
        truth: the same; below 0 where a pixel does not count, whatever is answered there.
        classes: (B, N, S) one-hot, the split's class behind each column but the background's.

    Returns:
        (B, 2 S) intersections, then unions.
    """
    counts = truth >= 0
    both, either = [], []
    for column in range(1, classes.shape[1] + 1):
        named, real = (answer == column) & counts, truth == column
        both.append((named & real).sum((1, 2, 3)))
        either.append((named | real).sum((1, 2, 3)))
    pair = torch.stack([torch.stack(both, -1), torch.stack(either, -1)], 1).double()
    sums: Tensor = pair @ classes.double()
    return sums.flatten(1)


def mean_overlap(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """Mean over classes of intersection over union, of added `overlap_sums`.

    A class that neither occurs nor was answered is left out.
    """
    both, either = sums.unflatten(-1, (2, -1)).unbind(-2)
    overlap = both / either.clamp_min(1)
    seen = either > 0
    mean: Tensor = (overlap * seen).sum(-1) / seen.sum(-1)
    return mean


def two_sided_sums(
    answer: Int[Tensor, "B Q H W"], truth: Int[Tensor, "B Q H W"]
) -> Float[Tensor, "B 4"]:
    """Intersection and union of foreground and background, all classes being foreground.

    Args:
        answer: the column of each pixel, 0 for the background.
        truth: the same; below 0 where a pixel does not count.

    Returns:
        (B, 4) two intersections, then two unions; `mean_overlap` makes FB-IoU of them.
    """
    counts = truth >= 0
    named, real = answer > 0, truth > 0
    terms = (named & real, ~named & ~real, named | real, ~named | ~real)
    return torch.stack([(term & counts).sum((1, 2, 3)) for term in terms], -1).double()


def false_foreground_sums(
    answer: Int[Tensor, "B Q H W"], truth: Int[Tensor, "B Q H W"]
) -> Float[Tensor, "B 2"]:
    """Pixels that were answered with a class, and all pixels, of queries that show none.

    Returns:
        (B, 2), of which `share` is made.
    """
    counts = truth >= 0
    shows_none = ~(truth > 0).any(-1).any(-1)[..., None, None] & counts
    found = torch.stack([(shows_none & (answer > 0)).sum((1, 2, 3)), shows_none.sum((1, 2, 3))], -1)
    return found.double()


def share(sums: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B"]:
    """A part by its whole, of two sums."""
    return sums[..., 0] / sums[..., 1]


def presence_sums(
    sign: Float[Tensor, "B Q N"], shown: Bool[Tensor, "B Q N"]
) -> Float[Tensor, "B k"]:
    """How often the logit of a sign of presence fell into each of BINS equal bins.

    Sure learners give signs that lie close to 0 or 1, where bins of the sign itself would make all
    alike.

    Args:
        sign: (B, Q, N) how much a query seems to show each class, in [0, 1].
        shown: (B, Q, N) whether it does.

    Returns:
        (B, 2 BINS) counts of shown classes, then of others; `area_of_sums` makes an AUROC of them.
    """
    logit = sign.double().logit().clamp(-LARGEST, LARGEST)
    share_of_range = (logit / LARGEST + 1) / 2
    place = (share_of_range * BINS).long().clamp(0, BINS - 1).flatten(1)
    empty = torch.zeros(len(sign), BINS, dtype=torch.float64, device=sign.device)
    of = shown.flatten(1).double()
    return torch.cat([empty.scatter_add(1, place, term) for term in (of, 1 - of)], 1)


def area_of_sums(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """The area under the ROC curve of added `presence_sums`; what shares a bin counts half."""
    shown, others = sums.unflatten(-1, (2, BINS)).unbind(-2)
    below = others.cumsum(-1) - others
    right = (shown * (below + others / 2)).sum(-1)
    area: Tensor = right / (shown.sum(-1) * others.sum(-1))
    return area

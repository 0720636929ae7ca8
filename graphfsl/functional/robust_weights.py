"""Weights of a class's nodes among which some may be of another class."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from graphfsl.functional.distances import cosine, squared_euclidean
from graphfsl.functional.prototypes import prototypes
from graphfsl.functional.statistics import or_one

NEAR = 1e-6  # of a class's mean distance: what is nearer weighs no more than that


def median_weights(
    x: Float[Tensor, "*B n d"], w: Float[Tensor, "*B n C"], steps: int = 10
) -> Float[Tensor, "*B n C"]:
    """Weights whose means are the spatial medians of classes.

        m <- sum_i w_i x_i / ||x_i - m||  /  sum_i w_i / ||x_i - m||      (Weiszfeld 1937)

    from the mean on. The median minimises sum_i w_i ||x_i - m||; of one or two nodes it is the
    mean. It turns with the features, as a median of each coordinate would not.

    Args:
        x: (…, n, d) nodes.
        w: (…, n, C) label weights.
        steps: of the iteration.

    Returns:
        (…, n, C); a class has as much weight as before.
    """
    found = w
    for _ in range(steps):
        distance = squared_euclidean(x, prototypes(x, found)).sqrt()
        usual = (distance * w).sum(-2, keepdim=True) / or_one(w.sum(-2, keepdim=True))
        found = w / distance.clamp_min(NEAR * usual).clamp_min(torch.finfo(w.dtype).tiny)
        found = _as_heavy(found, w)
    return found


def trimmed_weights(
    x: Float[Tensor, "*B n d"], w: Float[Tensor, "*B n C"], share: float
) -> Float[Tensor, "*B n C"]:
    """Weights that leave out the nodes of each class that are farthest from its spatial median.

    Args:
        x: (…, n, d) nodes.
        w: (…, n, C) label weights.
        share: of a class's weight that is left out at the most, below 1; whole nodes are.

    Returns:
        (…, n, C); a class has as much weight as before.
    """
    distance = squared_euclidean(x, prototypes(x, median_weights(x, w)))
    order = distance.masked_fill(w == 0, -1).argsort(-2, descending=True)
    farther = w.gather(-2, order).cumsum(-2)  # the weight of a node and of all that lie beyond
    allowed = share * w.sum(-2, keepdim=True) * (1 + 1e-6)
    kept = torch.zeros_like(w).scatter(-2, order, (farther > allowed).to(w.dtype))
    return _as_heavy(w * kept, w)


def similarity_weights(
    x: Float[Tensor, "*B n d"], w: Float[Tensor, "*B n C"], temperature: float
) -> Float[Tensor, "*B n C"]:
    """Weights of nodes that resemble the other nodes of their class.

        w'_i ~ w_i exp(s_i / T),  s_i the mean cosine of x_i and the other nodes of the class

    Args:
        x: (…, n, d) nodes.
        w: (…, n, C) label weights.
        temperature: T; at 1 cosines differ too little to change anything.

    Returns:
        (…, n, C); a class has as much weight as before.
    """
    alike = cosine(x, x)
    alike = alike - torch.diag_embed(alike.diagonal(dim1=-2, dim2=-1))
    others = w.sum(-2, keepdim=True) - w
    mean = (alike @ w) / or_one(others)
    hidden = (mean / temperature).masked_fill(w == 0, float("-inf"))
    best = hidden.amax(-2, keepdim=True)
    best = best.where(best.isfinite(), 0)
    return _as_heavy(w * (hidden - best).exp(), w)


def _as_heavy(
    found: Float[Tensor, "*B n C"], w: Float[Tensor, "*B n C"]
) -> Float[Tensor, "*B n C"]:
    """Weights in the given ratios, whose sums over a class are those of w."""
    return found * (w.sum(-2, keepdim=True) / or_one(found.sum(-2, keepdim=True)))

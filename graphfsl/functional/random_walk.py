"""Where a random walk from a node first meets a label: the harmonic function of a graph.

Zhu, Ghahramani, Lafferty 2003, https://mlg.eng.cam.ac.uk/zoubin/papers/zgl.pdf; on the pixels of an
image Grady 2006, "Random Walks for Image Segmentation".
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

BETA, LEAST = 90.0, 1e-4  # of colours in [0, 1]; the weight that every edge has


def grid_edges(
    image: Float[np.ndarray, "H W ch"], beta: float = BETA, least: float = LEAST
) -> tuple[Int[np.ndarray, "e 2"], Float[np.ndarray, " e"]]:
    """The edges between neighbouring pixels, straight and across, and their weights.

        w_ij = exp(-beta |rgb_i - rgb_j|^2) + least

    Args:
        image: (H, W, channels) in [0, 1].
        beta: how much less an edge weighs across a change of colour.
        least: what each weighs at least, so that the image is connected.

    Returns:
        The ends (e, 2), numbered row by row, and the weights (e,).
    """
    height, width = image.shape[:2]
    number = np.arange(height * width).reshape(height, width)
    here = [number[:, :-1], number[:-1], number[:-1, :-1], number[:-1, 1:]]
    there = [number[:, 1:], number[1:], number[1:, 1:], number[1:, :-1]]
    ends = np.stack([np.concatenate([n.ravel() for n in side]) for side in (here, there)], 1)
    colors = image.reshape(height * width, -1).astype(np.float64)
    squares = ((colors[ends[:, 0]] - colors[ends[:, 1]]) ** 2).sum(1)
    return ends, np.exp(-beta * squares) + least


def harmonic(
    ends: Int[np.ndarray, "e 2"],
    weight: Float[np.ndarray, " e"],
    nodes: Int[np.ndarray, " k"],
    labels: Float[np.ndarray, "k C"],
    n: int,
) -> tuple[Float[np.ndarray, "n C"], Bool[np.ndarray, " n"]]:
    """The function that is the mean of its neighbours at every node without a label.

        F_l = Y,  F_u = L_uu^-1 W_ul Y,  L = D - W

    Args:
        ends: (e, 2) of edges, each counted both ways.
        weight: (e,) above 0.
        nodes: (k,) the nodes with a label.
        labels: (k, C) their values Y.
        n: how many nodes.

    Returns:
        F (n, C), and (n,) whether a label reaches the node; where none does, F is zero.
    """
    both = np.concatenate([ends, ends[:, ::-1]])
    w = sparse.csr_matrix((np.tile(weight, 2), (both[:, 0], both[:, 1])), (n, n))
    _, component = connected_components(w, directed=False)
    reached = np.isin(component, component[nodes])

    f = np.zeros((n, labels.shape[1]))
    f[nodes] = labels
    labeled = np.zeros(n, bool)
    labeled[nodes] = True
    free = np.flatnonzero(reached & ~labeled)
    if len(free):
        degree = np.asarray(w.sum(1)).ravel()
        laplacian = (sparse.diags(degree) - w).tocsr()
        l_uu = laplacian[free][:, free].tocsc()
        w_ul = w[free][:, nodes]
        solver = splu(l_uu, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        f[free] = solver.solve(np.asarray(w_ul @ labels))
    return f, reached

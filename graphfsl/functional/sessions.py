"""How a learner fares whose classes come one session after another.

With R_tj the accuracy, after session t, on the classes that came in session j, and A_t that on all
classes seen by then, everything here is a function of the counts behind them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def session_sums(
    right: Bool[Tensor, "B Q"], came: Int[Tensor, "B Q"], now: Int[Tensor, " B"], sessions: int
) -> Float[Tensor, "B k"]:
    """The counts that all other functions here read, which may be added up over episodes.

    Args:
        right: (B, Q) which queries are answered rightly.
        came: (B, Q) the session in which the class of each came, below zero for padding.
        now: (B,) the session that an episode is.
        sessions: T, the last session.

    Returns:
        (B, 2 (T + 1)^2): of each session t and each j the right answers, then all answers.
    """
    size = sessions + 1
    real = (came >= 0).double()
    column = came.clamp_min(0)
    sums = torch.zeros(len(now), 2, size, size, dtype=torch.float64, device=now.device)
    row = torch.arange(len(now), device=now.device)
    for k, counted in enumerate((real * right, real)):
        of_session = real.new_zeros(len(now), size).scatter_add(1, column, counted)
        sums[row, k, now] = of_session
    return sums.flatten(1)


def session_matrix(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B m m"]:
    """R (…, T + 1, T + 1): accuracy after session t (rows) on the classes of session j (columns).

    NaN where nothing was asked, as of classes that are yet to come.
    """
    hits, asked = _counts(sums)
    return hits / asked


def session_accuracies(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B m"]:
    """A (…, T + 1): after each session, the accuracy on the queries of all classes seen."""
    hits, asked = _counts(sums)
    return hits.sum(-1) / asked.sum(-1)


def performance_drop(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """PD = A_0 - A_T (Zhang et al. 2021, https://arxiv.org/abs/2104.03047)."""
    accuracies = session_accuracies(sums)
    return accuracies[..., 0] - accuracies[..., -1]


def base_accuracy(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """R_T0: after the last session, the accuracy on the classes of the first."""
    return session_matrix(sums)[..., -1, 0]


def novel_accuracy(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """After the last session, the accuracy on the queries of all classes but those of the first."""
    hits, asked = _counts(sums)
    return hits[..., -1, 1:].sum(-1) / asked[..., -1, 1:].sum(-1)


def harmonic_mean(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """2 base novel / (base + novel), which is zero where one of them is."""
    base, novel = base_accuracy(sums), novel_accuracy(sums)
    return 2 * base * novel / (base + novel).clamp_min(1e-12)


def backward_transfer(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """BWT = mean_{j < T} (R_Tj - R_jj): below zero where what came later harms what was before.

    Source:
        Lopez-Paz, Ranzato 2017, https://arxiv.org/abs/1706.08840, equation 3.
    """
    matrix = session_matrix(sums)
    learned = matrix.diagonal(dim1=-2, dim2=-1)
    return (matrix[..., -1, :-1] - learned[..., :-1]).mean(-1)


def forgetting(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """mean_{j < T} (max_{l < T} R_lj - R_Tj): what is lost of the best there ever was.

    Source:
        Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112, section 4.
    """
    matrix = session_matrix(sums)
    best = matrix[..., :-1, :-1].nan_to_num(-1.0).amax(-2)
    return (best - matrix[..., -1, :-1]).mean(-1)


def is_base(session: Int[Tensor, "B C"] | None, c: Float[Tensor, "B C d"]) -> Bool[Tensor, "B C"]:
    """Which classes came in the base session.

    Args:
        session: (B, C) the session of each class; None where there are no sessions.
        c: (B, C, d) anything of the classes.

    Returns:
        (B, C), false without sessions.
    """
    if session is None:
        return torch.zeros(c.shape[:2], dtype=torch.bool, device=c.device)
    return session == 0


def _counts(
    sums: Float[Tensor, "*B k"],
) -> tuple[Float[Tensor, "*B m m"], Float[Tensor, "*B m m"]]:
    """Right answers, and all answers, (…, T + 1, T + 1) each, of `session_sums`."""
    size = int((sums.shape[-1] / 2) ** 0.5)
    hits, asked = sums.unflatten(-1, (2, size, size)).unbind(-3)
    return hits, asked

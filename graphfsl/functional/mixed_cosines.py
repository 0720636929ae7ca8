"""Cosines with vectors that are mixed anew for each pair, without writing the mixtures down."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from graphfsl.functional.distances import length


def mixed_cosines(
    x: Float[Tensor, "*B m d"],
    a: Float[Tensor, "*B C d"],
    s: Float[Tensor, "*B C d"],
    v: Float[Tensor, "*B m d"],
    share: Float[Tensor, "*B m C"],
    gain: Float[Tensor, " d"],
    shift: Float[Tensor, " d"],
    eps: float = 1e-5,
) -> Float[Tensor, "*B m C"]:
    """cos(x_i, LayerNorm(a_c + share_ic (v_i - s_c))) for all pairs of i and c.

    All that a pair needs are inner products of rows, which are products of matrices: time grows
    with m C d, but memory with m C alone.

    Args:
        x: (…, m, d) whose cosines are asked for.
        a: (…, C, d) the mixture where the share is 0.
        s: (…, C, d) what the share takes away.
        v: (…, m, d) what it adds.
        share: (…, m, C) of each pair.
        gain: (d,) of the LayerNorm.
        shift: (d,) of the LayerNorm.
        eps: added to its variance.

    Returns:
        (…, m, C).
    """
    a, s, v = (t - t.mean(-1, keepdim=True) for t in (a, s, v))
    d = x.shape[-1]

    def along(h: Tensor) -> Tensor:
        """h . u of each pair, u the centred mixture; h is (…, m, d) or (d,)."""
        of_v = (h * v).sum(-1).unsqueeze(-1)
        of_a, of_s = h @ a.mT, h @ s.mT
        if h.ndim == 1:
            of_a, of_s = of_a.unsqueeze(-2), of_s.unsqueeze(-2)
        found: Tensor = of_a + share * (of_v - of_s)
        return found

    def squared(weight: Tensor) -> Tensor:
        """sum_k weight_k u_k^2 of each pair."""
        va, vs = (weight * v) @ a.mT, (weight * v) @ s.mT
        aa, ass, ss = ((weight * p * q).sum(-1).unsqueeze(-2) for p, q in ((a, a), (a, s), (s, s)))
        vv = (weight * v * v).sum(-1).unsqueeze(-1)
        found: Tensor = aa + 2 * share * (va - ass) + share.square() * (vv - 2 * vs + ss)
        return found.clamp_min(0)

    deviation = (squared(gain.new_ones(d)) / d + eps).sqrt()
    product = along(gain * x) / deviation + (x @ shift).unsqueeze(-1)
    square = squared(gain.square()) / deviation.square()
    square = square + 2 * along(gain * shift) / deviation + shift.square().sum()
    return product / (length(x) * square.clamp_min(1e-12).sqrt())

"""Meta-Baseline: cosines to class means, with a learned scale.

Chen, Liu, Xu, Darrell, Wang 2021, https://arxiv.org/abs/2003.04390
"""

from __future__ import annotations

from graphfsl.methods.heads.protonet import ProtoNet

__all__ = ["MetaBaseline"]


class MetaBaseline(ProtoNet):
    """Compare queries with class means by a scaled cosine, on a pretrained encoder.

        p(y = c | x) = softmax_c(tau cos(f(x), w_c)),  w_c the mean support feature of class c

    (equation 2), on an encoder that was pretrained as a classifier and is then trained on episodes.

    Args:
        scale: tau to begin with; it is learned.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        equations 1 and 2; tau = 10 is the authors'. It is `protonet` with a cosine: what makes the
        method is the training in two stages, `pretrain` and then episodes.

    Deviations:
        none are known.
    """

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__("cosine", scale)

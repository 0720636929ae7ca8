"""Proto-MAML: a linear read-out that starts each task as a prototypical network.

Triantafillou et al. 2020, "Meta-Dataset", https://arxiv.org/abs/1903.03096
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent, prototypes

__all__ = ["ProtoMAML"]


class ProtoMAML(Head):
    """Start a linear read-out at the class means of the support, and adapt it from there.

        s_c(x) = w_c . f(x) + b_c,  w_c = 2 mu_c,  b_c = -|mu_c|^2      (section 3, equation 3)

    with the mean mu_c of the support features of class c. This is -|f(x) - mu_c|^2 but for
    |f(x)|^2, which all classes share: before the first step the answer is that of prototypical
    networks. The encoder learns through the start too. Any number of classes is answered.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> logits (B, n, C).

    Source:
        section 3; the authors adapt it in 5 first-order steps of 0.01 on the mean loss of the
        support, BatchNorm's scale and shift not among what adapts.

    Deviations:
        the inner loop is that of `adapt`, such as `fomaml`; outside of one it is `protonet`.
    """

    family = "optimisation"
    imprinted = ("weight", "bias")  # what `Adapt` starts from `imprint`

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor | None
        self.bias: Tensor | None
        self.register_buffer("weight", None)
        self.register_buffer("bias", None)

    def imprint(self, episode: Episode) -> dict[str, Tensor]:
        """The weights (B, C, d) and biases (B, C) at which an episode of features starts."""
        labeled = episode.labeled
        mean = prototypes(episode.x[:, labeled], episode.w[:, labeled])
        return {"weight": 2 * mean, "bias": -mean.square().sum(-1)}

    def score(self, episode: Episode) -> Tensor:
        """Logits (B, n, C) of an episode of features."""
        start = self.imprint(episode) if self.weight is None or self.bias is None else {}
        weight = start["weight"] if self.weight is None else self.weight
        bias = start["bias"] if self.bias is None else self.bias
        return hide_absent(episode.x @ weight.mT + bias.unsqueeze(-2), episode.w)

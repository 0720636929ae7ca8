"""TFA: the last layer of a detector is trained on a few boxes, as a classifier of cosines.

Wang, Huang, Gonzalez, Darrell, Yu 2020, "Frustratingly Simple Few-Shot Object Detection",
https://arxiv.org/abs/2003.06957
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.cosine_classifier import tuned_cosines
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["Tfa"]


class Tfa(Head):
    """Train the class weights of a cosine classifier on the shots; the encoder is frozen.

        s_ij = scale * F(x)_i . w_j / (|F(x)_i| |w_j|)      (equation 2)

    for region i and class j, the background among the classes. The cross-entropy of the labeled
    regions is lowered by gradient descent with momentum, which keeps every w_j at length 1.

    Args:
        steps: of the descent.
        lr: their size.
        scale: alpha of the cosine.
        momentum: of the descent.
        decay: weight decay.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> scaled cosines (B, n, C).

    Source:
        section 3.2 and the authors' code: scale 20, SGD with momentum 0.9 and weight decay 0.0001,
        weights that are normalised in place.

    Deviations:
        each step takes the gradient of all labeled regions in place of random ones, and w_j starts
        at its class mean in place of a random direction, so that an answer depends on no chance; so
        60 steps do in place of the authors' 4,000 for one shot. Boxes are those of the proposals,
        no layer of boxes is trained, and the base classes are not asked for beside the novel ones.
    """

    cannot_export = "trains a classifier by many steps, which a graph would hold one by one"
    family = "transfer"

    def __init__(
        self,
        steps: int = 60,
        lr: float = 0.02,
        scale: float = 20.0,
        momentum: float = 0.9,
        decay: float = 0.0001,
    ) -> None:
        super().__init__()
        require(
            steps >= 0 and lr > 0 and scale > 0 and 0 <= momentum < 1 and decay >= 0,
            "tfa: steps and decay must be 0 or more, lr and scale above 0 and momentum in [0, 1), "
            f"not {steps}, {decay}, {lr}, {scale} and {momentum}",
        )
        self.steps, self.lr, self.scale = steps, lr, scale
        self.momentum, self.decay = momentum, decay

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) to the class weights that were trained on the support."""
        x = F.normalize(episode.x, dim=-1)
        z, y = x[:, episode.labeled], episode.w[:, episode.labeled]
        start = F.normalize(prototypes(z, y), dim=-1)
        share = y / or_one(y.sum((1, 2), keepdim=True))
        w = tuned_cosines(
            start,
            z,
            share,
            present(y),
            self.steps,
            self.lr,
            self.scale,
            self.momentum,
            self.decay,
        )
        return hide_absent(self.scale * x @ w.mT, episode.w)

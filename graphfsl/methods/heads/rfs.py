"""RFS: a good embedding is all you need.

Tian, Wang, Krishnan, Tenenbaum, Isola 2020, https://arxiv.org/abs/2003.11539
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.logistic_regression import logistic_regression
from graphfsl.functional.prototypes import hide_absent
from graphfsl.io.errors import require

__all__ = ["RFS"]


class RFS(Head):
    """Fit multinomial logistic regression on the normalised features of each support.

        theta = {W, b} = argmin sum_i L_ce(W f(x_i) + b, y_i) + R(W, b)      (equation 3)
        R(W, b) = ||W||^2 / (2 C)
        scores: W f(x) + b

    with the features f(x) scaled to length 1.

    Args:
        C: how little the classifier is regularised, as in scikit-learn.
        normalize: whether features get length 1.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> logits (B, n, C).

    Source:
        section 3 and the authors' evaluation, scikit-learn's LogisticRegression(C=1) on normalised
        features.

    Deviations:
        none in the solution; the authors also put five augmented copies of each image into the
        support.
    """

    cannot_export = "fits its classifier by Newton steps, and ONNX factorises no matrix"
    family = "transfer"
    fits_probabilities = True
    block_nodes = 20480

    def __init__(self, C: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        require(C > 0, f"rfs.C must be above 0, not {C}")
        self.C, self.normalize = C, normalize

    def score(self, episode: Episode) -> Tensor:
        """Logits (B, n, C) of the logistic regression that was fitted to the support."""
        z = F.normalize(episode.x, dim=-1) if self.normalize else episode.x
        labeled = episode.labeled
        weight, bias = logistic_regression(
            z[:, labeled], episode.w[:, labeled], self.C, *self.effort(episode)
        )
        return hide_absent(z @ weight.mT + bias.unsqueeze(-2), episode.w)

    def effort(self, episode: Episode) -> tuple[int, int]:
        """Steps of Newton's method, and in each of conjugate gradients, that reach the solution.

        Few are enough where logits are small, which 160 labeled features of length 1 bound that
        weigh one each; they are then within 3e-4 of it. Nodes may weigh more where they were
        labeled by somebody, and where one stands for all samples of an old class.
        """
        weighs_one = not episode.relabeled and episode.session is None
        largest_c = 100 if weighs_one else 1
        if not self.normalize or largest_c < self.C:
            return 30, 40
        nodes = episode.w[:, episode.labeled].shape[1]
        small_logits = weighs_one and self.C <= 1 and nodes <= 160
        return (6, 8) if small_logits else (15, 20)

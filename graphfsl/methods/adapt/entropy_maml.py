"""MAML with a pool in its inner loss: entropy minimisation.

Grandvalet, Bengio 2004, https://papers.nips.cc/paper/2740 (the loss);
Finn, Abbeel, Levine 2017, https://arxiv.org/abs/1703.03400 (the loop)
"""

from __future__ import annotations

from torch import Tensor, nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.objectives import Score, beside_support, sum_over_shot
from graphfsl.core.rules import GradientDescent
from graphfsl.functional.prototypes import present
from graphfsl.io.errors import require

__all__ = ["EntropyMAML"]


class EntropyMAML(Adapt):
    """Each inner step descends the support's loss plus the entropy of what it answers for the pool.

        theta_(t+1) = theta_t - alpha * grad [sum_S CE(y, p(x)) / K + weight * N * mean_U H(p(u))]
        H(p) = - sum_c p_c log p_c

    S is the support of N classes with K samples each, U the pool. The outer loss is MAML's, that of
    the queries at the end, so that an initialisation is learned from which it helps to lower the
    entropy.

    Args:
        net: any learner that scores a support set.
        steps: how often it steps.
        lr: alpha, on the scale of `maml`.
        weight: of the pool's entropy; 0 is `maml`, and so is an episode without a pool.
        first_order: drop the second derivatives.
        params: what adapts, by name pattern.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training, where they differ.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        entropy: equation 7 of Grandvalet, Bengio; loop and scale of the loss: algorithm 2 of Finn
        et al. and the authors' code.

    Deviations:
        neither paper has the two together. BatchNorm under `apart` takes the statistics of the pool
        for the pool.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    takes_values = False
    policy = "apart"

    def __init__(
        self,
        net: nn.Module,
        steps: int = 3,
        lr: float = 0.1,
        weight: float = 0.1,
        first_order: bool = False,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
    ) -> None:
        require(
            lr > 0 and weight >= 0,
            f"entropy_maml.lr must be above 0 and weight 0 or more, not {lr} and {weight}",
        )
        super().__init__(
            net,
            GradientDescent(lr),
            steps,
            self.loss_with_pool,
            params,
            first_order,
            task_chunk,
            steps_test,
        )
        self.uses_unlabeled = True  # also where the net inside has no use for a pool
        self.weight = weight

    def loss_with_pool(self, score: Score, episode: Episode, step: int) -> Tensor:
        """The support's loss as in MAML, and `weight` times N times the pool's mean entropy."""
        labeled = sum_over_shot(score, episode, step)
        pool = episode.unlabeled
        if self.weight == 0 or episode.x[:, pool].shape[1] == 0:
            return labeled
        mask = episode.mask[:, pool]
        scores = beside_support(score, episode, episode.x[:, pool], mask)[:, episode.n_support :]
        log_p = scores.log_softmax(-1)
        entropy = -(log_p.exp() * log_p.clamp_min(-1e30)).sum(-1)  # (B, U); 0 * -inf is no number
        real = mask.to(entropy.dtype)
        mean = (entropy * real).sum() / real.sum().clamp_min(1)
        ways = present(episode.w[:, episode.support]).sum().to(mean.dtype)
        return labeled + self.weight * ways * mean

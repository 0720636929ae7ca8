"""Fine-tuning of the whole network on an episode, also transductive.

Dhillon, Chaudhari, Ravichandran, Soatto 2020, https://arxiv.org/abs/1909.02729
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.objectives import Score, beside_support, labeled_cross_entropy
from graphfsl.core.rules import Adam
from graphfsl.functional.cross_entropy import cross_entropy
from graphfsl.io.errors import require

__all__ = ["FineTuning"]


class FineTuning(Adapt):
    """Tune the whole network on each episode's support, and on its queries by their entropy.

        min  mean_S -log p(y | x) + entropy * mean_Q H(p(. | x))      (equation 8)

    over the network's weights, by Adam.

    Args:
        net: any learner; the head `imprinting` starts at the class means, as the paper's
            support-based initialisation does.
        steps, lr: of Adam.
        params: what adapts, by name pattern.
        entropy: 1 is the paper's transductive fine-tuning; 0 its inductive one, without the
            queries.
        task_chunk: see `Adapt`.

    Shapes:
        score: images (B, n, *S) -> (B, n, C).

    Source:
        sections 3.1 and 3.2; 25 steps of lr 5e-5.

    Deviations:
        the head starts from features under a cosine of fixed scale, the paper's from the logits of
        the base classes; support and queries share a batch; how the weights moved is a constant for
        the gradient of a training.
    """

    family = "transductive"
    adapts_frozen = True
    keeps_autocast = True
    takes_values = False

    def __init__(
        self,
        net: Learner,
        steps: int = 25,
        lr: float = 5e-5,
        params: str | Sequence[str] = "*",
        entropy: float = 1.0,
        task_chunk: int | None = None,
    ) -> None:
        super().__init__(net, Adam(lr), steps, self.tuning, params, True, task_chunk)
        require(
            lr > 0 and entropy >= 0,
            f"fine_tuning.lr must be above 0 and entropy 0 or more, not {lr} and {entropy}",
        )
        self.entropy = entropy

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        """Whether a query's answer depends on the other queries: with their entropy it does."""
        return self.entropy > 0 or Adapt.transductive.fget(self)  # type: ignore[attr-defined]

    def tuning(self, score: Score, episode: Episode, step: int) -> Tensor:
        """The loss of equation 8, which an inner step descends: a scalar.

        Args:
            score: scores an episode with the weights of this step.
            episode: of one task, images (1, n, *S).
            step: the number of the inner step, which does not matter here.
        """
        k, real = episode.n_support, episode.mask[:, episode.query]
        x = episode.x[:, episode.query] if self.entropy else episode.x[:, :0]
        scores = beside_support(score, episode, x, real[:, : x.shape[1]])
        loss = labeled_cross_entropy(scores, episode)
        if self.entropy:
            f = scores[:, k:]
            h = cross_entropy(f, f.softmax(-1))
            loss = loss + self.entropy * h.where(real, 0).sum() / real.sum().clamp_min(1)
        return loss

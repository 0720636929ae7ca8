"""Fine-tuning of class weights on new samples alone: what forgets most.

Tao, Hong, Chang, Dong, Wei, Gong 2020 (its baseline Ft-CNN), https://arxiv.org/abs/2004.10956
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

__all__ = ["SessionTuning"]


class SessionTuning(Head):
    """Tune the weights of all classes on the samples of each session, one session after another.

    Class weights w_c of length 1 start at class means. In each session after the first,

        w <- w - lr gradient of mean_i -log softmax_c(scale cos(w_c, x_i))_(y_i)

    over the samples of its classes alone, with the weights of all classes seen by then. Nothing
    holds the old ones where they are, which makes it the floor of class-incremental methods. An
    episode without sessions is one session of new classes.

    Args:
        steps: in each session.
        lr: their size.
        scale: of the cosine.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        section 5.1, the baseline "Ft-CNN".

    Deviations:
        the paper tunes the whole network, here the encoder stays as it is; a session whose samples
        are gone is tuned on its class means, with their numbers as weights.
    """

    family = "transfer"

    def __init__(self, steps: int = 25, lr: float = 0.05, scale: float = 16.0) -> None:
        super().__init__()
        require(
            steps >= 0 and lr > 0 and scale > 0,
            f"session_tuning: steps must be 0 or more, lr and scale above 0, not {steps}, {lr} "
            f"and {scale}",
        )
        self.steps, self.lr, self.scale = steps, lr, scale

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) with the tuned class weights."""
        x = F.normalize(episode.x, dim=-1)
        z, y = x[:, episode.labeled], episode.w[:, episode.labeled]
        w = F.normalize(prototypes(z, y), dim=-1)
        came = episode.session
        if came is None:
            came = 2 * present(y).long() - 1  # 1, or -1 for an absent class
        for session in range(1, self.sessions_of(episode) + 1):
            w = self.tuned(w, z, y, came, session)
        return hide_absent(self.scale * x @ w.mT, episode.w)

    @staticmethod
    def sessions_of(episode: Episode) -> int:
        """The last session of the batch."""
        return 1 if episode.session is None else int(episode.session.max())

    def tuned(self, w: Tensor, z: Tensor, y: Tensor, came: Tensor, session: int) -> Tensor:
        """The class weights (B, C, d) after a session.

        Args:
            w: (B, C, d) before it.
            z: (B, m, d) nodes with labels, of length 1.
            y: (B, m, C) their label weights.
            came: (B, C) the session of each class, -1 for an absent one.
            session: its number, from 1.
        """
        own = y * (came == session).unsqueeze(1)
        share = own / or_one(own.sum((1, 2), keepdim=True))
        seen = (came >= 0) & (came <= session)
        return tuned_cosines(w, z, share, seen, self.steps, self.lr, self.scale)

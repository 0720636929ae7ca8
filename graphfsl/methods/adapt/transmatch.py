"""TransMatch: imprinted weights, then MixMatch on the episode. Yu, Chen, Cheng, Luo 2020,
https://arxiv.org/abs/1912.09033; MixMatch is Berthelot et al. 2019,
https://arxiv.org/abs/1905.02249"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.objectives import Score, beside_support
from graphfsl.core.rules import Adam
from graphfsl.functional.cross_entropy import cross_entropy
from graphfsl.functional.prototypes import present
from graphfsl.io.errors import InputError
from graphfsl.nn.views import DRAWS, Views

__all__ = ["TransMatch"]


class TransMatch(Adapt):
    """From imprinted class weights on (the head `imprinting`), Adam descends MixMatch's loss on
    support and pool:

        q_b = Sharpen(mean_k p(u_b,k), T),  Sharpen(p, T)_c = p_c^(1/T) / sum_j p_j^(1/T)      views
        u_b,1 .. u_b,K x'  = l x + (1 - l) x~,  y' = l y + (1 - l) y~,  l = max(l0, 1 - l0),  l0 ~
        Beta(alpha, alpha) mean_S' H(y', p(x')) + lambda_u * mean_U' |y' - p(x')|^2 / C,

    x~ being another image of the support's views and the pool's.

    net: any learner. steps, lr: of Adam. lambda_u: the last step's weight, reached linearly.
    params: what adapts, by name pattern; "*" is the paper's whole network. views: K. temperature:
        T. alpha: of Beta.
    rotate, translate, scale, flip: of the views, see `graphfsl.nn.views`; images of one channel
        must have paper 0.
    task_chunk: see `Adapt`.

    score: images (B, n, *S) -> (B, n, C).
    Source: algorithm 1 of the first, equations 2 to 14 and algorithm 1 of the second; T 0.5, alpha
        0.75, lambda_u 5.
    Deviations: each step takes the whole episode; views and l are drawn at the start, so that
    answers repeat, and x~ is the next in an order of the images by content; no moving average of
    the weights, no weight decay, far fewer steps. How the weights moved is a constant for the
    gradient of a training.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    adapts_frozen = True

    def __init__(
        self,
        net: Learner,
        steps: int = 20,
        lr: float = 1e-3,
        params: str | Sequence[str] = "*",
        views: int = 2,
        temperature: float = 0.5,
        alpha: float = 0.75,
        lambda_u: float = 5.0,
        rotate: float = 10.0,
        translate: float = 0.1,
        scale: float = 0.1,
        flip: bool = False,
        task_chunk: int | None = None,
    ) -> None:
        super().__init__(net, Adam(lr), steps, self.mixmatch, params, True, task_chunk)
        if views < 1 or not min(lr, temperature, alpha) > 0 or lambda_u < 0:
            raise InputError(
                "transmatch: views must be 1 or more, lr, temperature and alpha above 0, "
                "lambda_u 0 or more, "
                f"not {views}, {lr}, {temperature}, {alpha} and {lambda_u}"
            )
        self.uses_unlabeled = True
        self.temperature, self.lambda_u, self.k = temperature, lambda_u, views
        self.views = Views(steps, 1 + views, rotate, translate, scale, flip)
        self.share: Tensor
        both = torch.full((2,), alpha, device="cpu")  # the meta device draws no Beta
        share = torch.distributions.Beta(*both).sample((steps, DRAWS)).to(self.views.draws.device)
        self.register_buffer("share", torch.maximum(share, 1 - share))

    def mixmatch(self, score: Score, episode: Episode, step: int) -> Tensor:
        s, k = episode.parts(query=False, unlabeled=False), episode.n_support
        u, mask = episode.x[:, episode.unlabeled], episode.mask[:, episode.unlabeled]
        places = self.views.places(u, mask, step)
        pool = torch.cat([self.views(u, places, step, 1 + v) for v in range(self.k)], 1)
        mask = mask.repeat(1, self.k)
        guess = beside_support(score, episode, pool, mask)[:, k:].detach().softmax(-1)
        q = torch.stack(guess.chunk(self.k, 1)).mean(0) ** (1 / self.temperature)
        q = (q / q.sum(-1, keepdim=True)).repeat(1, self.k, 1)
        x = torch.cat([self.views(s.x, self.views.places(s.x, s.mask, step), step, 0), pool], 1)
        y, mask = torch.cat([s.w, q], 1), torch.cat([s.mask, mask], 1)
        x, y = self.mix(x, y, mask, step)
        scores = beside_support(score, episode, x, mask)[:, k:]
        labeled, rest = mask[:, :k].to(y.dtype), mask[:, k:].to(y.dtype)
        loss_x = (labeled * cross_entropy(scores[:, :k], y[:, :k])).sum() / labeled.sum()
        brier = (scores[:, k:].softmax(-1) - y[:, k:]).square().sum(-1)
        loss_u = (rest * brier).sum() / (rest.sum().clamp_min(1) * present(s.w).sum())
        return loss_x + self.lambda_u * (step + 1) / self.steps * loss_u

    def mix(self, x: Tensor, y: Tensor, mask: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, m, *S) and labels (B, m, C), each mixed with those of the next place; the
        last, of the first.
        """
        places = self.views.places(x, mask, step)
        after = (places + 1) % mask.sum(-1, keepdim=True).clamp_min(1)
        other = places.argsort().gather(1, after)
        share = self.share[step][places % DRAWS].to(y.dtype)
        x, y = (t + (1 - broad(share, t)) * (t.gather(1, broad(other, t)) - t) for t in (x, y))
        return x, y


def broad(t: Tensor, like: Tensor) -> Tensor:
    """t (B, m) for every element of like (B, m, *S)."""
    return t.view(*t.shape, *(1,) * (like.ndim - 2)).expand_as(like)

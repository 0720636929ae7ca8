"""TransMatch: imprinted weights, then MixMatch on the episode.

Yu, Chen, Cheng, Luo 2020, https://arxiv.org/abs/1912.09033; MixMatch is Berthelot et al. 2019,
https://arxiv.org/abs/1905.02249
"""

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
from graphfsl.io.errors import require
from graphfsl.nn.views import DRAWS, Moves, Views

__all__ = ["TransMatch"]


class TransMatch(Adapt):
    """Start at imprinted class weights, then descend MixMatch's loss on support and pool.

    With K views u_b,1 .. u_b,K of every unlabeled image, and x~ another image of the support's
    views and the pool's, Adam descends the sum of the last two lines:

        q_b = Sharpen(mean_k p(u_b,k), T),  Sharpen(p, T)_c = p_c^(1/T) / sum_j p_j^(1/T)
        x' = l x + (1 - l) x~,  y' = l y + (1 - l) y~
        l = max(l0, 1 - l0),  l0 ~ Beta(alpha, alpha)
        L_X = mean_S' H(y', p(x'))
        lambda_u L_U = lambda_u * mean_U' |y' - p(x')|^2 / C

    The imprinted weights are those of the head `imprinting`.

    Args:
        net: any learner.
        steps, lr: of Adam.
        lambda_u: the last step's weight, reached linearly.
        params: what adapts, by name pattern; "*" is the paper's whole network.
        views: K.
        temperature: T.
        alpha: of Beta.
        rotate, translate, scale, flip: of the views, see `graphfsl.nn.views`; images of one channel
            must have paper 0.
        task_chunk: see `Adapt`.

    Shapes:
        score: images (B, n, *S) -> (B, n, C).

    Source:
        algorithm 1 of the first, equations 2 to 14 and algorithm 1 of the second; T 0.5, alpha
        0.75, lambda_u 5.

    Deviations:
        each step takes the whole episode; views and l are drawn at the start, so that answers
        repeat, and x~ is the next in an order of the images by content; no moving average of the
        weights, no weight decay, far fewer steps. How the weights moved is a constant for the
        gradient of a training.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    adapts_frozen = True
    keeps_autocast = True
    takes_values = False

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
        require(
            views >= 1 and min(lr, temperature, alpha) > 0 and lambda_u >= 0,
            "transmatch: views must be 1 or more, lr, temperature and alpha above 0, "
            "lambda_u 0 or more, "
            f"not {views}, {lr}, {temperature}, {alpha} and {lambda_u}",
        )
        self.uses_unlabeled = True
        self.temperature, self.lambda_u, self.k = temperature, lambda_u, views
        self.views = Views(steps, 1 + views, Moves(rotate, translate, scale, flip))
        self.share: Tensor
        both = torch.full((2,), alpha, device="cpu")  # the meta device draws no Beta
        share = torch.distributions.Beta(*both).sample((steps, DRAWS)).to(self.views.draws.device)
        self.register_buffer("share", torch.maximum(share, 1 - share))

    def mixmatch(self, score: Score, episode: Episode, step: int) -> Tensor:
        """L_X + lambda_u(step) L_U of support and pool, after label guessing and MixUp."""
        support = episode.parts(query=False, unlabeled=False)
        pool, real = self.pool_views(episode, step)
        guess = self.guess_labels(score, episode, pool, real)

        images = torch.cat([self.support_view(support, step), pool], 1)
        labels = torch.cat([support.w, guess], 1)
        mask = torch.cat([support.mask, real], 1)
        mixed, target = self.mix_up(images, labels, mask, step)
        scores = beside_support(score, episode, mixed, mask)[:, support.n_support :]

        of_support, of_pool = slice(0, support.n_support), slice(support.n_support, None)
        loss_x = labeled_loss(scores[:, of_support], target[:, of_support], support.mask)
        loss_u = guessed_loss(scores[:, of_pool], target[:, of_pool], real, present(support.w))
        ramp = self.lambda_u * (step + 1) / self.steps
        return loss_x + ramp * loss_u

    def support_view(self, support: Episode, step: int) -> Tensor:
        """One view of every labeled image: (B, k, *S)."""
        places = self.views.places(support.x, support.mask, step)
        views: Tensor = self.views(support.x, places, step, 0)
        return views

    def pool_views(self, episode: Episode, step: int) -> tuple[Tensor, Tensor]:
        """The K views of every unlabeled image in turn: (B, K U, *S); and which are real."""
        images = episode.x[:, episode.unlabeled]
        real = episode.mask[:, episode.unlabeled]
        places = self.views.places(images, real, step)
        views = [self.views(images, places, step, 1 + view) for view in range(self.k)]
        return torch.cat(views, 1), real.repeat(1, self.k)

    def guess_labels(self, score: Score, episode: Episode, pool: Tensor, real: Tensor) -> Tensor:
        """Guess q_b for every view (B, K U, C): the views' mean probability, sharpened.

        Args:
            score: scores an episode with the weights of this step.
            episode: of one task.
            pool: (B, K U, *S) the views.
            real: (B, K U) which are of real images.
        """
        scores = beside_support(score, episode, pool, real)[:, episode.n_support :]
        p = scores.detach().softmax(-1)
        mean = torch.stack(p.chunk(self.k, 1)).mean(0)
        return sharpen(mean, self.temperature).repeat(1, self.k, 1)

    def mix_up(self, x: Tensor, y: Tensor, mask: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mix each image and its label with those of the next place; the last with the first.

        Args:
            x: (B, m, *S) images.
            y: (B, m, C) labels.
            mask: (B, m) which images are real.
            step: the number of the inner step, which chooses the order and the shares.

        Returns:
            The mixed images (B, m, *S) and labels (B, m, C).
        """
        places = self.views.places(x, mask, step)
        next_place = (places + 1) % mask.sum(-1, keepdim=True).clamp_min(1)
        partner = places.argsort().gather(1, next_place)
        share = self.share[step][places % DRAWS].to(y.dtype)
        return mix(x, partner, share), mix(y, partner, share)


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """Sharpen probabilities: p_c^(1/T) / sum_j p_j^(1/T) over the last axis."""
    power = p ** (1 / temperature)
    return power / power.sum(-1, keepdim=True)


def mix(t: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mix nodes t (B, m, *S) with their partners j (B, m): l t_i + (1 - l) t_j, with l (B, m)."""
    other = t.gather(1, broad(partner, t))
    return t + (1 - broad(share, t)) * (other - t)


def labeled_loss(scores: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_X: mean cross-entropy of the support (B, k, C) against mixed labels; mask (B, k)."""
    real = mask.to(target.dtype)
    return (real * cross_entropy(scores, target)).sum() / real.sum()


def guessed_loss(scores: Tensor, target: Tensor, mask: Tensor, classes: Tensor) -> Tensor:
    """L_U: the mean squared error of the pool's probabilities, divided by the number of classes.

    Args:
        scores: (B, m, C) of the pool.
        target: (B, m, C) the guessed probabilities.
        mask: (B, m) which images are real.
        classes: (B, C) which classes are present.

    Returns:
        A scalar.
    """
    real = mask.to(target.dtype)
    brier = (scores.softmax(-1) - target).square().sum(-1)
    return (real * brier).sum() / (real.sum().clamp_min(1) * classes.sum())


def broad(t: Tensor, like: Tensor) -> Tensor:
    """Repeat t (B, m) for every element of `like` (B, m, *S)."""
    return t.view(*t.shape, *(1,) * (like.ndim - 2)).expand_as(like)

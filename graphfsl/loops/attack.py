"""`PGD`: pixels that are changed a little so that a learner answers wrongly.

Madry, Makelov, Schmidt, Tsipras, Vladu 2018, https://arxiv.org/abs/1706.06083; of few-shot learners
Goldblum, Fowl, Goldstein 2020 (adversarial querying), https://arxiv.org/abs/1910.00982
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.arguments import real_number, whole_number
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.streams import ATTACK, keys_of, uniform
from graphfsl.data.transforms import Transform
from graphfsl.functional.layers import last_layer
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.loops.image_change import normalised, pixels

PARTS = ("query", "support")


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the loss of the queries, within `eps` of each pixel.

        x <- clip(x + step sign(d CE / d x)),  |x - x_0| <= eps and 0 <= x <= 1

    Pixels are in [0, 1], before they are normalised. It starts anywhere within eps, and of all the
    images that it came through it keeps the one that the learner answers worst, the unchanged one
    among them. So an image that is answered wrongly stays so with more steps.

    Args:
        eps: the most that a pixel changes; 0 changes none.
        steps: of the ascent.
        step: their size; None takes a quarter of eps.
        on: "query", or "support", whose labels stay right while its images mislead (poisoning). The
            loss is that of the queries in both.
        seed: of the start.
        source: whose gradients are followed; None follows those of the learner that is attacked. A
            learner without useful gradients may look robust to its own and fall to another's.
    """

    eps: float
    steps: int = 20
    step: float | None = None
    on: str = "query"
    seed: int = 0
    source: Learner | None = None

    def __post_init__(self) -> None:
        eps = real_number(self.eps, "the eps of an attack")
        require(0 <= eps <= 1, f"the eps of an attack must lie in [0, 1] of a pixel, not {eps}")
        whole_number(self.steps, "the steps of an attack", 1)
        step = eps / 4 if self.step is None else real_number(self.step, "the step of an attack")
        require(step > 0 or not eps, f"the step of an attack must be above 0, not {step}")
        if self.on not in PARTS:
            raise unknown("part of an episode to attack", self.on, PARTS)
        object.__setattr__(self, "eps", eps)

    def __str__(self) -> str:
        """In words: "PGD on query, eps 0.0314, 20 steps"."""
        other = "" if self.source is None else ", by the gradients of another learner"
        return f"PGD on {self.on}, eps {self.eps:.3g}, {self.steps} steps{other}"

    def changed(
        self,
        learner: Learner,
        episode: Episode,
        target: Any,
        transform: Transform,
        numbers: Sequence[int] | np.ndarray,
    ) -> Episode:
        """The episode with changed images; parameters and BatchNorm averages stay as they are.

        Args:
            learner: what is attacked; it is asked in evaluation mode.
            episode: of images (B, n, C, H, W), normalised by `transform`.
            target: of its queries.
            transform: the normalisation.
            numbers: (B,) of the episodes, which the start is a function of.

        Raises:
            InputError: for features, which have no pixels, and for queries without a class.
        """
        self._check(episode, target)
        if not self.eps:
            return episode
        asked = self.source or learner
        was_training = asked.training
        asked.eval()
        try:
            with torch.enable_grad():
                worst = self._ascend(asked, episode, target, transform, numbers)
        finally:
            asked.train(was_training)
        return self._with(episode, transform, worst)

    def _check(self, episode: Episode, target: Any) -> None:
        require(
            episode.x.ndim == 5,
            f"an attack changes pixels, but these samples are features of shape "
            f"{tuple(episode.x.shape[2:])}; evaluate a run on images",
        )
        require(
            isinstance(target, Target),
            "an attack raises the loss of classes, and this task asks for none",
        )

    def _ascend(
        self,
        learner: Learner,
        episode: Episode,
        target: Target,
        transform: Transform,
        numbers: Sequence[int] | np.ndarray,
    ) -> Tensor:
        """The pixels (B, m, C, H, W) that the learner answers worst."""
        clean = pixels(episode.x[:, self._slice(episode)].detach(), transform)
        low, high = (clean - self.eps).clamp_min(0), (clean + self.eps).clamp_max(1)
        keys = keys_of("attack", self.seed, np.asarray(numbers))
        u = torch.from_numpy(uniform(keys, ATTACK, 1, clean[0].numel())).view(clean.shape)
        start = clean + self.eps * (2 * u - 1).to(clean)
        answer = self._answering(learner, episode, transform)
        with torch.no_grad():
            worst, most = clean, self._wrongness(answer(clean), target)
        x = torch.minimum(torch.maximum(start, low), high)
        size = self.eps / 4 if self.step is None else self.step
        for number in range(self.steps + 1):
            x = x.detach().requires_grad_()
            queries = answer(x)
            wrong = self._wrongness(queries, target)
            better = (wrong > most).view(*wrong.shape, *(1,) * (x.ndim - wrong.ndim))
            worst, most = torch.where(better, x.detach(), worst), torch.maximum(wrong, most)
            if number == self.steps:
                break
            loss = F.cross_entropy(
                queries.flatten(0, 1), target.of_class.flatten(), ignore_index=-100, reduction="sum"
            )
            (slope,) = torch.autograd.grad(loss, x)
            x = x.detach() + size * slope.sign()
            x = torch.minimum(torch.maximum(x, low), high)
        return worst

    def _answering(
        self, learner: Learner, episode: Episode, transform: Transform
    ) -> Callable[[Tensor], Tensor]:
        """What scores the queries (B, Q, C) where the part that is attacked has given pixels.

        The other images stay as they are, and where an image's features do not depend on its
        episode those are encoded once.
        """

        def whole(pixels: Tensor) -> Tensor:
            scores = learner.score(self._with(episode, transform, pixels))
            return last_layer(scores)[:, episode.query]

        if not (isinstance(learner, Pipeline) and learner.fixed):
            return whole
        with torch.no_grad():
            features = learner.encode(episode)
        part = self._slice(episode)

        def by_features(pixels: Tensor) -> Tensor:
            moved = self._with(episode, transform, pixels)
            alone = moved.parts(
                support=self.on == "support", query=self.on == "query", unlabeled=False
            )
            z = learner.encode(alone).x
            nodes = torch.cat([features.x[:, : part.start or 0], z, features.x[:, part.stop :]], 1)
            scores = learner.score_features(features.with_tensors({"x": nodes}))
            return last_layer(scores)[:, episode.query]

        return by_features

    @torch.no_grad()
    def _wrongness(self, queries: Tensor, target: Target) -> Tensor:
        """How far the best wrong class is above the right one: (B, Q), above 0 where it is wrong.

        Where the support is changed, which all queries share, (B, 1): the share of wrong answers
        and, far less, the loss.
        """
        truth = target.query.clamp_min(0).unsqueeze(-1)
        own = queries.gather(-1, truth).squeeze(-1)
        others = queries.scatter(-1, truth, float("-inf")).amax(-1)
        margin = others - own
        if self.on == "query":
            return margin
        real = (target.query >= 0).to(margin.dtype)
        wrong = ((margin > 0) * real).sum(1) + 0.5 * (margin.sigmoid() * real).mean(1)
        return wrong.unsqueeze(1)

    def _slice(self, episode: Episode) -> slice:
        return episode.query if self.on == "query" else episode.support

    def _with(self, episode: Episode, transform: Transform, pixels: Tensor) -> Episode:
        """The episode with these pixels in the part that is attacked."""
        part = self._slice(episode)
        x = episode.x
        changed = normalised(pixels, transform).to(x.dtype)
        nodes = torch.cat([x[:, : part.start or 0], changed, x[:, part.stop :]], 1)
        return episode.with_tensors({"x": nodes})


def parse_eps(text: str) -> float:
    """A number or a fraction as text: "0.1", "8/255".

    Raises:
        InputError: for anything else.
    """
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"--eps must be a number or a fraction of a pixel's range, such as 8/255, not {text!r}"
        ) from None

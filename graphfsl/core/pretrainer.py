"""`Pretrainer`: what the trainer sees of a pretraining objective."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.encoder import call_encoder, full_precision, keep_precision
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Objective
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.distances import length
from graphfsl.functional.prototypes import hide_absent, prototypes


class NearestMeans(Head):
    """Scores by the class means of features of length one: s_c = -||x / ||x|| - mean_c||^2."""

    def score(self, episode: Episode) -> Tensor:
        """Features (B, n, d), label weights (B, n, C) -> (B, n, C)."""
        x, support = episode.x, episode.x[:, episode.labeled]
        means = prototypes(F.normalize(support, dim=-1), episode.w[:, episode.labeled])
        # -||x^ - mean||^2 for x^ of length 1, without writing down x^.
        near = 2 * x @ means.mT / length(x) - means.square().sum(-1).unsqueeze(1) - 1
        return hide_absent(near, episode.w)


class Pretrainer(Pipeline):
    """An encoder that learns from an objective on base images.

    It is validated on episodes by nearest class means.

    Args:
        encoder: what learns.
        objective: what it descends.
    """

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        super().__init__(encoder, head=NearestMeans())
        self.objective = objective

    def vectors(self, x: Tensor) -> Tensor:
        """Images (m, *S) -> vectors (m, d), in full precision."""
        return self.readout(call_encoder(self.encoder, x))

    def classify(self, x: Tensor) -> Tensor:
        """Scores (m, C) of the base classes for images (m, *S), if the objective classifies."""
        scores: Tensor = self.objective.classifier(self.vectors(x))  # type: ignore[operator]
        return scores

    def loss(self, episode: Episode, target: Any) -> Tensor:
        """The objective on the episode's queries: a scalar."""
        x, vectors = episode.x[:, episode.query], keep_precision(self.vectors, episode.x.device)
        with full_precision(x.device):
            loss: Tensor = self.objective(vectors, x, target.query)
        return loss

"""`Pretrainer`: what the trainer sees of a pretraining objective."""

from __future__ import annotations

from torch import Tensor, nn

from graphfsl.core.encoder import call_encoder, full_precision, keep_precision
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head, Objective
from graphfsl.core.pipeline import Pipeline


class Pretrainer(Pipeline):
    """An encoder that learns from an objective on base images.

    Args:
        encoder: what learns.
        objective: what it descends.
        head: answers the episodes on which the encoder is validated.
    """

    def __init__(self, encoder: nn.Module, objective: Objective, head: Head) -> None:
        super().__init__(encoder, head=head)
        self.objective = objective

    def vectors(self, x: Tensor) -> Tensor:
        """Images (m, *S) -> vectors (m, d), in full precision."""
        return self.readout(call_encoder(self.encoder, x))

    def classify(self, x: Tensor) -> Tensor:
        """Scores (m, C) of the base classes for images (m, *S), if the objective classifies."""
        scores: Tensor = self.objective.classifier(self.vectors(x))  # type: ignore[operator]
        return scores

    def loss(self, episode: Episode, target: Target) -> Tensor:
        """The objective on the episode's queries: a scalar."""
        x, vectors = episode.x[:, episode.query], keep_precision(self.vectors, episode.x.device)
        with full_precision(x.device):
            loss: Tensor = self.objective(vectors, x, target.query)
        return loss

"""Episodes of features, for what needs no encoder."""

from __future__ import annotations

from graphfsl.core.episode import Episode, Target, stack
from graphfsl.testing import DIM, episodes


def features(**options: int) -> Episode:
    """An episode of features (B, n, DIM) in float64."""
    return features_and_target(**options)[0]


def features_and_target(**options: int) -> tuple[Episode, Target]:
    """The same with its true labels."""
    episode, target = episodes(**options)
    x = episode.x.flatten(2)[..., :DIM].double()
    return episode.replace(x=x, w=episode.w.double(), relabeled=False), target


def padded_features() -> Episode:
    """A task of 9 nodes beside one of 18."""
    return stack([features(batch=1, shot=1, query=1, unlabeled=1), features(batch=1, seed=1)])

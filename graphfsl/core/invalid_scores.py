"""Which part of a learner made the first value that no answer can be read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.layers import last_layer
from graphfsl.functional.statistics import answered
from graphfsl.io.errors import InputError


class Diverged(InputError):
    """An inner loop that left no finite answer, though there was one before it.

    Attributes:
        setting: the kind of setting in which it was asked, such as "inductive".
    """

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


@torch.no_grad()
def why_unsound(learner: Learner, episode: Episode) -> str:
    """What made the first value that is not finite, for an episode whose scores were found so.

    As "the head ProtoNet made values that are not finite"; that the inner loop diverged, where they
    are finite before it.
    """
    net = learner.innermost
    if not bool(_nodes(episode)):
        given = isinstance(net, Pipeline) and isinstance(net.encoder, nn.Identity)
        return _made_by(
            "encoder, or the features that were given," if given else "samples themselves"
        )
    if not isinstance(net, Pipeline):
        return _made_by(type(net).__name__)
    with _watched(net, episode) as found:
        net(episode)
    if found:
        return _made_by(found[0])
    return getattr(learner, "diverged", "") or _made_by(type(learner).__name__)


def _made_by(part: str) -> str:
    return f"the {part} made values that are not finite"


def check_answered(learner: Learner, episode: Episode, scores: Tensor) -> Tensor:
    """Refuse scores (B, Q, C) of the queries in which one holds no answer, or give them back.

    Raises:
        InputError: where one of them holds no answer.
    """
    if not bool(answered(scores).all()):
        raise InputError(f"there is no answer: {why_unsound(learner, episode)}")
    return scores


@contextmanager
def _watched(net: Pipeline, episode: Episode) -> Iterator[list[str]]:
    """Within this block the parts whose answers are not sound are listed.

    They stand in the order in which they answered.
    """
    found: list[str] = []
    real = episode.mask.flatten()

    def watch(slot: str, sound: Callable[[Any, Any], Tensor]) -> Callable[..., None]:
        def hook(part: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
            if not bool(sound(given[0], answer)):
                found.append(f"{slot} {type(part).__name__}")

        return hook

    hooks = [
        net.encoder.register_forward_hook(watch("encoder", lambda _, z: z[real].isfinite().all()))
    ]
    for slot in ("augment", "graph"):
        hooks += [
            part.register_forward_hook(watch(slot, lambda _, new: _nodes(new)))
            for part in getattr(net, slot)
        ]
    hooks += [part.register_forward_hook(watch("refine", _scores)) for part in net.refine]

    score, tell = net.head.score, watch("head", _scores)

    def score_and_tell(episode: Episode) -> Tensor:
        scores = score(episode)
        tell(net.head, (episode,), scores)
        return scores

    net.head.score = score_and_tell  # type: ignore[method-assign]  # it is not called through forward, as others are
    try:
        yield found
    finally:
        del net.head.score
        for handle in hooks:
            handle.remove()


def _nodes(episode: Episode) -> Tensor:
    """Whether the samples and label weights of all real nodes are finite."""
    return episode.x[episode.mask].isfinite().all() & episode.w[episode.mask].isfinite().all()


def _scores(episode: Episode, scores: Tensor) -> Tensor:
    """Whether every real query has an answer."""
    queries = answered(last_layer(scores)[:, episode.query])
    return (queries | ~episode.mask[:, episode.query]).all()

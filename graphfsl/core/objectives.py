"""Objectives of the inner loop: what a step on an episode descends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphfsl.core.episode import OF_CLASSES, Episode
from graphfsl.core.learner import Learner
from graphfsl.functional.cross_entropy import cross_entropy
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present

Score = Callable[[Episode], Tensor]
InnerObjective = Callable[[Score, Episode, int], Tensor]
# the fractional parts of its multiples are all different, and lie evenly between 0 and 1
GOLDEN = 0.6180339887498949


def of_support(objective: InnerObjective) -> InnerObjective:
    """Mark an objective that scores the support as it is, and nothing else.

    Where no parameter of the encoder adapts, the inner loop then encodes each image only once.
    """
    objective.of_support = True  # type: ignore[attr-defined]
    return objective


@of_support
def support_loss(score: Score, episode: Episode, step: int) -> Tensor:
    """Mean loss of the support: cross-entropy of classes, squared error of real values.

    Only the support is encoded.
    """
    if episode.values is not None:
        return support_squared_error(score, episode, step)
    return support_cross_entropy(score, episode, step)


@of_support
def support_cross_entropy(score: Score, episode: Episode, step: int) -> Tensor:
    """Mean cross-entropy of the support nodes against their label weights.

    Only the support is encoded.
    """
    support = episode.parts(query=False, unlabeled=False)
    return labeled_cross_entropy(last_layer(score(support)), support)


@of_support
def support_squared_error(score: Score, episode: Episode, step: int) -> Tensor:
    """Mean squared error of the support's real values, over nodes and dimensions."""
    support = episode.parts(query=False, unlabeled=False)
    assert support.values is not None
    error = (last_layer(score(support)) - support.values).square()  # (B, k, D)
    real = support.w[:, :, 0] * support.mask  # (B, k): 1 = its values may be seen
    return (error.mean(-1) * real).sum() / real.sum()


@of_support
def sum_over_shot(score: Score, episode: Episode, step: int) -> Tensor:
    """sum_i CE_i / K over the N*K support nodes: N times the mean, as in MAML's code.

    Of real values it is the mean squared error.

    Source:
        Finn, Abbeel, Levine 2017, the authors' code (0.4 at 5-way equals 2.0 on the mean).
    """
    if episode.values is not None:
        return support_squared_error(score, episode, step)
    ways = present(episode.w[:, episode.support]).sum().to(episode.w.dtype)
    return ways * support_cross_entropy(score, episode, step)


def mini_batch_loss(score: Score, episode: Episode, step: int, size: int, net: Learner) -> Tensor:
    """Mean loss of the `size` support nodes whose turn it is at a step.

    All nodes have their turn before one has it again, in another order each round. The whole
    support is shown where it is no larger, and to a net that is tied to a number of shots.
    """
    support = episode.parts(query=False, unlabeled=False)
    if size >= support.n_support or net.shots is not None:
        return support_loss(score, support, step)
    turn, real = whose_turn(support, size, step)
    shown = {}
    for name, tensor in support.tensors.items():
        if name in OF_CLASSES:
            continue
        places = turn.view(*turn.shape, *(1,) * (tensor.ndim - 2))
        shown[name] = torch.take_along_dim(tensor, places, 1)
    shown["mask"] = shown["mask"] & real
    shown["w"] = shown["w"] * real.unsqueeze(-1)
    from_labels = any(not part.reads_scores for part in getattr(net, "refine", ()))
    if not (net.reads_support or from_labels):
        # a class of which no node is shown stays one of the task's, as it has a read-out
        nothing = torch.finfo(support.w.dtype).tiny
        shown["w"] = shown["w"] + nothing * present(support.w).to(support.w).unsqueeze(1)
    part = support.replace(
        **shown, n_support=size, padded=support.padded, relabeled=support.relabeled
    )
    return support_loss(score, part, step)


def whose_turn(support: Episode, size: int, step: int) -> tuple[Tensor, Tensor]:
    """Which support nodes are shown at a step.

    Step after step goes through the nodes of a task, round after round, each round in an order of
    its own (`shuffled`). A step may end one round and begin the next. A task of no more than `size`
    nodes shows all of them at every step.

    Args:
        support: of B tasks.
        size: how many nodes a step shows.
        step: counts from 0.

    Returns:
        the nodes' positions in the support (B, size), and which of them count (B, size): where a
        task has fewer nodes, the places that are left do not.
    """
    count = support.mask.sum(1, keepdim=True).clamp_min(1)  # (B, 1)
    numbers = torch.arange(size, device=count.device)
    # how many nodes were shown before, in all rounds so far
    shown = torch.where(count > size, step * size + numbers, numbers)  # (B, size)
    rounds, place = shown // count, shown % count
    first = rounds[:, :1]
    turn = torch.where(
        rounds == first,
        shuffled(support, first).gather(1, place),
        shuffled(support, first + 1).gather(1, place),
    )
    return turn, (count > size) | (numbers < count)


def shuffled(support: Episode, number: Tensor) -> Tensor:
    """The positions of the support nodes in an order that looks random: (B, k), padding last.

    Nodes are sorted along a direction in the space of the samples, another one for each `number`.
    No random number is drawn, and the order in which the samples are given plays no part.

    Args:
        support: of B tasks.
        number: (B, 1) of the order, from 0; it may differ between tasks.
    """
    samples = support.x.detach().flatten(2).to(support.w.dtype)  # (B, k, m)
    frequency = 1 + (GOLDEN * (number + 1)) % 1  # (B, 1), another one for each order
    place = torch.arange(1, samples.shape[-1] + 1, device=samples.device)
    direction = (frequency * place).sin().to(samples.dtype)  # (B, m)
    projection = (samples * direction.unsqueeze(1)).sum(-1)  # (B, k)
    padding_last: Tensor = projection.masked_fill(~support.mask, float("inf"))
    return padding_last.argsort(dim=1, stable=True)


def labeled_cross_entropy(scores: Tensor, support: Episode) -> Tensor:
    """Mean cross-entropy of scores (B, k + …, C), of whose nodes the first k are the support."""
    w = support.w[:, support.support]
    return cross_entropy(scores[:, support.support], w).sum() / w.sum()


def beside_support(score: Score, episode: Episode, x: Tensor, mask: Tensor) -> Tensor:
    """Scores (B, k + m, C) of the support and of nodes x (B, m, *S), mask (B, m).

    The nodes take the place of queries and pool.

    Args:
        score: scores an episode.
        episode: whose support it is.
        x: (B, m, *S) further nodes, which stand as unlabeled ones.
        mask: (B, m) which of them are real.
    """
    s = episode.parts(query=False, unlabeled=False)
    w = s.w.new_zeros(*x.shape[:2], s.way)
    x, w, mask = (torch.cat(pair, 1) for pair in ((s.x, x), (s.w, w), (s.mask, mask)))
    of_classes = {name: getattr(s, name) for name in OF_CLASSES}
    both = Episode(x, w, s.n_support, 0, mask, padded=s.padded, relabeled=False, **of_classes)
    return last_layer(score(both))

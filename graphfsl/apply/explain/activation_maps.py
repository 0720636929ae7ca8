"""Where in the image a query's answer comes from, cell by cell of the encoder's map.

Class activation maps: Zhou et al. 2016, https://arxiv.org/abs/1512.04150. They are exact here, or
they are refused: the cells of a class sum to its score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as image_functions

from graphfsl.core.arguments import A_LEARNER, AN_EPISODE, check_kind
from graphfsl.core.encoder import call_encoder
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present
from graphfsl.io.errors import InputError, require

LINEAR = 1e-3  # the share of the scores by which a linear function may miss them
SHIFTS = 8  # points at which that is tried
Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ActivationMaps:
    """What each cell of a query's feature map adds to the score of each class.

    Scores stand beside the mean of all classes that are there, on which no answer depends.

    Attributes:
        maps: (C, h, w); with `offset` the cells of a class sum to its score.
        offset: (C,) what no cell adds, such as a bias.
        scores: (C,) the scores.
        answer: the class with the highest.
        other: the one with the second highest.
    """

    maps: Tensor
    offset: Tensor
    scores: Tensor
    answer: int
    other: int

    @property
    def contrast(self) -> Tensor:
        """(h, w) why the answer and not the runner-up: the difference of their maps."""
        return self.maps[self.answer] - self.maps[self.other]

    @property
    def error(self) -> float:
        """How far the cells of a class are from its score at the most, as a share of the scores."""
        missed = (self.maps.sum((1, 2)) + self.offset - self.scores).abs().max()
        return float(missed / self.scores.abs().max().clamp_min(1e-12))


def activation_maps(learner: Learner, episode: Episode, query: int = 0) -> ActivationMaps:
    """The maps of one query of an episode of one task.

    A head whose scores are linear in the features of a query, such as a distance to class means or
    a linear classifier, has one exact map; so has one that reads only their direction, such as a
    cosine or SimpleShot's distance, for the length that they have. Whether it is so is tried, not
    believed.

    Args:
        learner: a pipeline whose encoder makes maps that it reads out linearly, by their mean or as
            they are.
        episode: of images, one task.
        query: which of its queries.

    Raises:
        InputError: where the answer is not a sum over places.
    """
    pipeline = _checked(learner, episode)
    alone = episode.one_query_each()
    one = alone.with_tensors({name: t[query, None] for name, t in alone.tensors.items()})
    with torch.no_grad():
        features = pipeline.encode(one)
        maps = call_encoder(pipeline.encoder, one.x[0, one.query], maps=True)
    there = present(features.w)[0]

    def scores_of(z: Tensor) -> Tensor:
        """(C,) of features z (d,) in the query's place, beside the mean of the classes."""
        x = features.x.clone()
        x[0, one.n_support] = z
        found = last_layer(pipeline.score_features(features.with_tensors({"x": x})))
        scores = found[0, one.n_support].masked_fill(~there, 0)
        return (scores - scores.sum() / there.sum()).masked_fill(~there, 0)

    z = features.x[0, one.n_support].detach()
    jacobian, offset = _linear(scores_of, z)
    cells = _of_cells(pipeline, maps, jacobian)
    scores = scores_of(z).detach()
    first, second = scores.masked_fill(~there, float("-inf")).topk(2).indices.tolist()
    found = ActivationMaps(cells, offset, scores, first, second)
    require(
        found.error < LINEAR,
        f"the encoder's read-out is no sum over places (the cells miss the scores by "
        f"{found.error:.1%}); choose an encoder that takes the mean of its map",
    )
    return found


def _checked(learner: Learner, episode: Episode) -> Pipeline:
    check_kind(learner, Learner, "the learner", A_LEARNER)
    check_kind(episode, Episode, "the episode", AN_EPISODE)
    require(
        isinstance(learner, Pipeline) and episode.x.ndim == 5 and len(episode.x) == 1,
        "maps are of one task of images, and of a learner that is a pipeline",
    )
    assert isinstance(learner, Pipeline)
    require(
        not learner.training and learner.batch_norm == "running" and not learner.wants_maps,
        "maps are of a learner in evaluation mode that reads vectors, under "
        "learner.batch_norm=running",
    )
    require(
        not learner.transductive,
        "an answer that depends on other queries comes from no single image; choose an inductive "
        "learner",
    )
    return learner


def _linear(scores_of: Scores, z: Tensor) -> tuple[Tensor, Tensor]:
    """The linear function that the scores are of features (d,), as (C, d) and an offset (C,).

    Raises:
        InputError: where they are none, neither of the features nor of their direction.
    """
    length = z.norm().clamp_min(1e-12)
    # of linear scores of a direction, what is left without one: opposite directions cancel
    constant = ((scores_of(z) + scores_of(-z)) / 2).detach()

    def of_direction(v: Tensor) -> Tensor:
        scaled: Tensor = (scores_of(v) - constant) * v.norm() / length + constant
        return scaled

    for tried in (scores_of, of_direction):
        jacobian = torch.autograd.functional.jacobian(tried, z)
        assert isinstance(jacobian, Tensor)
        offset = tried(z) - jacobian @ z
        if _holds(tried, z, jacobian, offset):
            return jacobian.detach(), offset.detach()
    raise InputError(
        "this learner's scores are no linear function of what the encoder sees in each place, so "
        "that no map sums to them; choose a head such as protonet, without parts that rewrite "
        "features"
    )


@torch.no_grad()
def _holds(tried: Scores, z: Tensor, jacobian: Tensor, offset: Tensor) -> bool:
    """Whether the linear function gives the scores at other features too."""
    generator = torch.Generator().manual_seed(0)
    for number in range(SHIFTS):
        shift = torch.randn(z.shape, generator=generator).to(z) * z.std()
        other = z + shift * (number + 1) / SHIFTS
        wanted = tried(other)
        found = jacobian @ other + offset
        if not (found - wanted).abs().max() <= LINEAR * wanted.abs().max():
            return False
    return True


def _of_cells(pipeline: Pipeline, maps: Tensor, jacobian: Tensor) -> Tensor:
    """(C, h, w): what each cell of maps (1, d', h, w) adds to each of the linear scores (C, d)."""
    maps = maps.detach().requires_grad_()
    linear = jacobian @ pipeline.readout(maps)[0]
    cells = []
    for score in linear:
        (slope,) = torch.autograd.grad(score, maps, retain_graph=True)
        cells.append((slope * maps.detach()).sum(1)[0])
    return torch.stack(cells)


@torch.no_grad()
def map_deletion(
    learner: Learner, episode: Episode, query: int, order: Tensor, answer: int
) -> Tensor:
    """The probability of the answer after the first 0, 1, …, hw cells of an order were blurred.

    Args:
        learner: in evaluation mode.
        episode: of images, one task.
        query: which of its queries.
        order: (h, w) the rank of each cell, 0 for the first to go.
        answer: the class column.

    Returns:
        (hw + 1,)
    """
    at = episode.n_support + query
    image = episode.x[0, at]
    nothing_seen = blurred(image)
    rank = F.interpolate(order[None, None].to(image), image.shape[-2:], mode="nearest")[0]
    found = []
    for gone in range(order.numel() + 1):
        x = episode.x.clone()
        x[0, at] = torch.where(rank < gone, nothing_seen, image)
        scores = learner(episode.with_tensors({"x": x}))
        found.append(scores[0, query].softmax(-1)[answer])
    return torch.stack(found)


def blurred(image: Tensor) -> Tensor:
    """An image (C, H, W) of which no detail is left: blurred over its whole side."""
    side = max(3, min(image.shape[-2:]) // 2 * 2 - 1)
    found: Tensor = image_functions.gaussian_blur(image, [side, side], [side / 6, side / 6])
    return found


def ranked(values: Tensor) -> Tensor:
    """The rank (h, w) of each cell, 0 for the largest value."""
    order = values.flatten().argsort(descending=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.view(values.shape)


def nearness_to_the_centre(height: int, width: int) -> Tensor:
    """How near each cell (h, w) is to the centre: minus the square of its distance in cells."""
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    return -(rows.square()[:, None] + columns.square())

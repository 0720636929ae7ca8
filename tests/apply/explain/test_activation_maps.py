"""Maps whose cells sum to the scores, refused where none does, and what they point at."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import graphfsl as gf
from graphfsl.apply.explain.activation_maps import (
    activation_maps,
    blurred,
    map_deletion,
    nearness_to_the_centre,
    ranked,
)
from graphfsl.apply.explain.where import overlays, tell_where
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet

WAY, SIDE = 3, 32


class MeanOfMaps(nn.Module):
    """Two convolutions and the mean of their map, 4 x 4 cells."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 8, 2, 2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.net(x)
        return maps

    def readout(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class Flat(MeanOfMaps):
    def readout(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)


class Pooled(MeanOfMaps):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3), keepdim=True)


class Squared(MeanOfMaps):
    def readout(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3)) ** 2


def episode() -> Episode:
    """Each class has a pattern in one corner; all else is noise."""
    g = torch.Generator().manual_seed(1)
    pattern = 3 * torch.randn(WAY, 8, 8, generator=g)
    nodes = torch.cat([torch.arange(WAY).repeat_interleave(2), torch.arange(WAY)])
    x = 0.1 * torch.randn(1, len(nodes), 1, SIDE, SIDE, generator=g)
    for i, c in enumerate(nodes.tolist()):
        x[0, i, 0, 8:16, 16:24] += pattern[c]
    w = torch.zeros(1, len(nodes), WAY)
    w[0, torch.arange(2 * WAY), nodes[: 2 * WAY]] = 1
    return Episode(x, w, 2 * WAY, WAY, relabeled=False)


def pipeline(head: Any, encoder: nn.Module | None = None) -> Pipeline:
    return Pipeline(encoder or MeanOfMaps(), head=head).eval()


@pytest.mark.parametrize("encoder", [MeanOfMaps, Flat])
@pytest.mark.parametrize(
    "given",
    [
        "protonet",
        {"name": "protonet", "distance": "cosine"},
        {"name": "simple_shot", "transform": "un"},
        {"name": "simple_shot", "transform": "l2n"},
        "r2d2",
        "imprinting",
    ],
    ids=str,
)
def test_the_cells_of_a_class_sum_to_its_score(given: Any, encoder: type[nn.Module]) -> None:
    head = gf.build({"encoder": "pixels", "head": given}, (1, 2, 4), WAY).head
    model = pipeline(head, encoder())
    given_episode = episode()
    found = activation_maps(model, given_episode, query=1)
    with torch.no_grad():
        scores = model(given_episode)[0, 1]
    torch.testing.assert_close(found.scores, scores - scores.mean(), atol=1e-4, rtol=1e-4)
    total = found.maps.sum((1, 2)) + found.offset
    torch.testing.assert_close(total, found.scores, atol=1e-4, rtol=1e-4)
    assert found.maps.shape == (WAY, 4, 4) and found.error < 1e-4
    assert found.answer == int(scores.argmax())


def test_distances_to_means_by_hand() -> None:
    """Of cell (i, j): 2 <f_ij, c_k - mean of c> / hw."""
    model, given = pipeline(ProtoNet()), episode()
    found = activation_maps(model, given, query=2)
    with torch.no_grad():
        f = model.encoder(given.x[0, 2 * WAY + 2][None])[0]
        z = model.readout(model.encoder(given.x[0]))
    means = z[: 2 * WAY].view(WAY, 2, -1).mean(1)
    wanted = 2 * torch.einsum("dij,cd->cij", f, means - means.mean(0)) / 16
    torch.testing.assert_close(found.maps, wanted, atol=1e-5, rtol=1e-4)


def test_the_map_points_at_what_tells_the_classes_apart() -> None:
    model, given = pipeline(ProtoNet()), episode()
    for query in range(WAY):
        found = activation_maps(model, given, query)
        assert found.answer == query
        assert int(found.contrast.argmax()) == 1 * 4 + 2  # the pattern's cell


def test_blurring_cells_in_the_order_of_the_map_costs_most() -> None:
    model, given = pipeline(ProtoNet("cosine", 20.0)), episode()
    found = activation_maps(model, given, query=0)
    order = ranked(found.contrast)
    assert sorted(order.flatten().tolist()) == list(range(16))
    forwards = map_deletion(model, given, 0, order, found.answer)
    backwards = map_deletion(model, given, 0, 15 - order, found.answer)
    torch.testing.assert_close(forwards[[0, -1]], backwards[[0, -1]])
    with torch.no_grad():
        p = model(given)[0, 0].softmax(-1)[found.answer]
    torch.testing.assert_close(forwards[0], p)
    assert forwards.mean() < backwards.mean() - 0.1


def test_cells_are_ordered_from_the_centre_outwards() -> None:
    found = nearness_to_the_centre(3, 4)
    assert found.argmax() in (5, 6) and found[1, 1] == found[1, 2] == -0.25
    assert found[0, 0] == found[2, 3] == found.min() == -(1 + 1.5**2)


def test_a_blurred_image_keeps_its_mean_and_loses_its_detail() -> None:
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = blurred(image)
    assert float(found.mean()) == pytest.approx(float(image.mean()), abs=0.02)
    assert float(found.std()) < 0.3 * float(image.std())


def test_what_is_no_sum_over_places_is_refused() -> None:
    given = episode()
    with pytest.raises(InputError, match="no sum over places"):
        activation_maps(pipeline(ProtoNet(), Squared()), given)
    nearest = gf.build({"encoder": "pixels", "head": "matchingnet"}, (1, 2, 4), WAY).head
    with pytest.raises(InputError, match="no linear function"):
        activation_maps(pipeline(nearest), given)
    with pytest.raises(InputError, match="evaluation mode"):
        activation_maps(pipeline(ProtoNet()).train(), given)
    with pytest.raises(InputError, match="one task of images"):
        activation_maps(pipeline(ProtoNet()), given.replace(x=given.x.flatten(2)))


def test_what_is_told_of_a_map_adds_up() -> None:
    model = pipeline(ProtoNet("cosine", 20.0))
    told, found = tell_where(model, episode(), 1), activation_maps(model, episode(), 1)
    cells = torch.tensor(told["map"]) - torch.tensor(told["other_map"])
    torch.testing.assert_close(float(cells.sum()), told["margin_of_cells"], atol=1e-4, rtol=1e-4)
    offset = found.offset[found.answer] - found.offset[found.other]
    assert told["margin"] == pytest.approx(told["margin_of_cells"] + float(offset), abs=1e-4)
    curve = told["deletion"]
    assert len(curve) == 17 and told["better_than_random"] > 0.05
    assert told["better_than_centre"] == pytest.approx(
        sum(c - p for c, p in zip(told["centre_deletion"], curve, strict=True)) / 17, abs=1e-6
    )


def test_no_map_is_told_with_its_reason() -> None:
    assert tell_where(pipeline(ProtoNet(), Pooled()), episode(), 0) == {
        "left_out": "the encoder's map has 1 x 1 cell, which say nothing of where"
    }
    squared = pipeline(ProtoNet(), Squared())
    assert "no sum over places" in tell_where(squared, episode(), 0)["left_out"]


def test_a_drawing_is_red_where_a_cell_speaks_for_the_answer() -> None:
    cells = [[1.0, 0.0], [0.0, -1.0]]
    where = {"answer": 0, "other": 1, "map": cells, "other_map": [[0.0, 0.0], [0.0, 0.0]]}
    image = torch.full((3, 16, 16), 128, dtype=torch.uint8)
    (own, drawn), (against, _) = overlays(image, where, ["cat", "dog"])
    assert (own, against) == (
        "What speaks for cat (red) and against it (blue)",
        "Why cat and not dog",
    )
    assert isinstance(drawn, bytes)
    pixels = np.asarray(Image.open(io.BytesIO(drawn))).astype(int)
    red, blue = pixels[5, 5], pixels[-6, -6]
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50

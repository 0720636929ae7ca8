"""The task `regions`: what episodes of boxes hold, and what is detected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

import graphfsl as gf
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.proposals import components, proposals
from graphfsl.data.scenes import Objects, SceneSplit
from graphfsl.data.tasks import as_task
from graphfsl.data.tasks.regions import Regions
from graphfsl.data.transforms import Transform
from graphfsl.experiment.builder import build
from graphfsl.functional.regions import (
    around,
    crops,
    is_background,
    kept_regions,
    truth_of,
    voted,
)
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from tests.support.scenes import Colours, scenes

ASKED = {"task": "regions", "way": 2, "shot": 1, "query": 4, "crop": 8}


def blocks() -> SceneSplit:
    """Scenes of rectangles, three times as large as elsewhere."""
    small = scenes(24, side=20)
    x = small.x.repeat_interleave(3, -1).repeat_interleave(3, -2)
    objects = tuple(Objects(3 * o.boxes, o.labels, o.difficult) for o in small.objects or ())
    return SceneSplit(x, small.y, small.classes, small.name, objects=objects)


def learner() -> Pipeline:
    return Pipeline(Colours(), head=NearestNeighbor("cosine")).eval()


def test_components_are_the_boxes_of_ink_on_both_grounds() -> None:
    image = np.zeros((1, 40, 40), np.uint8)
    image[0, 5:15, 6:20] = 200
    image[0, 25:36, 22:33] = 160
    right = [[6, 5, 20, 15], [22, 25, 33, 36]]
    for pixels in (image, 255 - image):
        assert components(pixels).tolist() == right
    assert len(components(np.zeros((3, 9, 9), np.uint8))) == 0
    assert len(components(np.zeros((1, 1, 1), np.uint8))) == 0
    with pytest.raises(InputError, match="unknown kind of proposals"):
        proposals(image, "component")


def test_components_of_a_large_image_are_those_of_a_smaller_one() -> None:
    image = np.zeros((1, 2001, 1500), np.uint8)  # halved; one row is left over
    image[0, 100:301, 40:600] = 200
    image[0, 1900:, 1400:] = 200
    found = components(image)
    right = [[40, 100, 600, 302], [1400, 1900, 1500, 2001]]
    assert found.tolist() == right


def test_selective_search_finds_what_stands_alone() -> None:
    pytest.importorskip("cv2.ximgproc")
    image = np.full((3, 80, 90), 30, np.uint8)
    image[0, 20:60, 30:70] = 220
    found = torch.from_numpy(proposals(image, "selective_search"))
    assert float(box_iou(found, torch.tensor([[30.0, 20, 70, 60]])).max()) > 0.8
    assert found[:, 2].max() <= 90 and found[:, 3].max() <= 80 and found.min() >= 0


def test_shots_are_boxes_and_other_objects_are_neither_of_a_class_nor_background() -> None:
    split: Any = gf.load_data("glyph_scenes", "val")
    task = as_task({"task": "regions", "shot": 2, "query": 5})
    sampler = task.draws(split, 0)
    draw = sampler.draw([0, 1])
    task.check_draw(draw, split)
    episode, target = gf.Episodes(split, task).batch([0, 1])
    for b in range(2):
        labels = episode.w[b, episode.support]
        assert labels.sum(0)[1:].tolist() == [2.0] * 5, "as many boxes of each class"
        shots, queries = draw.ids[b, :10], draw.ids[b, 10:]
        assert not set(shots) & set(queries) and len(set(queries.tolist())) == 5
        for node in range(10):
            objects = split.objects_of(int(draw.ids[b, node]))
            assert objects.labels[draw.shots[b, node]] == draw.classes[b, node // 2]
        free = float(labels[:, 0].sum())
        assert free > 0
        assert not episode.w[b, episode.query].any()
    assert (episode.mask[:, episode.query] == (target.image >= 0)).all()


def test_what_is_labeled_background_overlaps_no_object_of_any_class() -> None:
    x = np.zeros((4, 1, 40, 80), np.uint8)
    x[:, :, 4:14, 4:14], x[:, :, 20:30, 30:40], x[:, :, 5:12, 60:72] = 250, 200, 220
    boxes = [[4, 4, 14, 14], [30, 20, 40, 30]]
    objects = tuple(Objects.of(boxes, [i % 2, 1 - i % 2]) for i in range(4))
    labels = torch.full((4,), -1)
    split = SceneSplit(torch.from_numpy(x), labels, ("a", "b"), "two/test", objects=objects)
    episode, target = gf.Episodes(split, {**ASKED, "way": 1, "query": 3}).batch([0])
    assert episode.w[0, episode.support].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert sorted(target.query[0].tolist()) == [0] * 6 + [1] * 3, "another class is background"


def test_objects_are_found_and_the_metrics_say_so() -> None:
    split = blocks()
    found = evaluate(learner(), split, {**ASKED, "rank": "score"}, episodes=5)
    metrics = found.row().metrics
    assert metrics["AP50"].value > 90 and metrics["AR@10"].value > 90
    assert found.row().setting == "inductive"
    without = evaluate(learner(), split, {**ASKED, "background": 0}, episodes=5)
    assert without.row().metrics["AP50"].value > 60


def test_the_precision_of_a_draw_is_the_mean_over_its_classes() -> None:
    split, task = blocks(), as_task({**ASKED, "background": 0})
    episodes = gf.Episodes(split, task)
    precisions = []
    for number in range(4):
        episode, target = episodes.batch([number])
        chance = torch.Generator().manual_seed(number)
        scores = torch.randn(*target.query.shape, episode.way, generator=chance)
        told = task.diagnose([(scores, target, episode)], split)["precisions"]
        there = target.object_label[0][target.object_image[0] >= 0].unique()
        assert set(told) == {split.classes[target.classes[0][c - 1]] for c in there.tolist()}
        precisions.append(float(task.metrics["AP50"].measure(scores, target, episode)))
        assert sum(told.values()) / len(told) == pytest.approx(precisions[-1], abs=1e-4)
    assert min(precisions) < max(precisions), "draws differ, so that the equality says something"


def test_without_background_scores_fall_back_to_those_of_the_classes() -> None:
    split = blocks()
    episode, target = gf.Episodes(split, {**ASKED, "background": 0}).batch([0])
    scores = learner()(episode)
    assert torch.isneginf(scores[..., 0]).all() and scores[..., 1:].isfinite().all()
    assert target.loss(learner().score(episode), episode).isfinite()


def test_a_region_equal_to_background_never_outranks_one_equal_to_a_shot() -> None:
    split = blocks()
    task: Any = as_task({**ASKED, "rank": "margin"})
    episode, target = gf.Episodes(split, task).batch([0])
    model = learner()
    scores = model.score(episode)[0]
    background = scores[(episode.w[0, :, 0] > 0)]
    shots = scores[: episode.n_support][episode.w[0, : episode.n_support, 1] > 0]
    if len(background):
        assert (background[:, 1] - background[:, 0]).max() <= (shots[:, 1] - shots[:, 0]).min()
    assert task.detections(model(episode), target, 0).score.size


def test_background_overlaps_no_object() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10]])
    regions = torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 5], [8, 8, 20, 20], [0, 0, 10, 3.5]])
    assert is_background(regions, objects).tolist() == [False, True, True, False]
    assert is_background(regions, objects[:0]).all()


def test_crops_are_squares_around_boxes_and_exact_for_whole_numbers() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    box = torch.tensor([[2.0, 3, 6, 7]])
    assert torch.equal(around(box, 1.0), box)
    assert around(torch.tensor([[0.0, 0, 4, 2]]), 1.5).tolist() == [[-1.0, -2.0, 5.0, 4.0]]
    torch.testing.assert_close(crops(image, box, torch.tensor([0]), 4)[0, 0], image[0, 0, 3:7, 2:6])


def test_overlapping_regions_of_a_class_are_one_and_other_classes_stay() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
    kept = kept_regions(boxes, scores, groups, 0.3)
    assert kept.tolist() == [0, 2]
    moved = voted(boxes[kept], groups[kept], boxes, scores, groups)
    weights = torch.tensor([0.9, 0.8]).softmax(0)
    torch.testing.assert_close(moved[0], weights @ boxes[:2])
    torch.testing.assert_close(moved[1], boxes[2])


def test_the_truth_of_a_region_is_that_of_the_object_it_overlaps_most() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    regions = torch.tensor([[0.0, 0, 10, 9], [21, 21, 30, 30], [0, 0, 10, 4], [50, 50, 60, 60]])
    assert truth_of(regions, objects, torch.tensor([2, 1])).tolist() == [2, 1, -100, 0]
    assert truth_of(regions, objects[:0], torch.tensor([]).long()).tolist() == [0] * 4


def test_what_is_wrong_is_one_line() -> None:
    split = blocks()
    for options, message in (
        ({"rank": "distance"}, "unknown episode.rank"),
        ({"proposals": "boxes"}, "unknown episode.proposals"),
        ({"rank": "margin", "background": 0}, "set episode.background above 0"),
        ({"query": 30}, "lower episode.way, shot or query"),
    ):
        with pytest.raises(InputError, match=message):
            gf.Episodes(split, {**ASKED, **options})
    with pytest.raises(InputError, match="has no boxes"):
        gf.Episodes(gf.load_data("glyphs", "test"), ASKED)
    with pytest.raises(InputError, match="regions are not augmented"):
        gf.Episodes(split, ASKED, 0, Transform(flip=True)).batch([0])
    model = build({"encoder": "conv4", "head": "protonet"}, (3, 28, 28), 3)
    assert model.way is None


def test_the_same_bytes_in_another_shape_have_proposals_of_their_own() -> None:
    high = np.zeros((1, 60, 30), np.uint8)
    high[0, 20:40] = 255
    wide = high.reshape(1, 30, 60)
    assert proposals(high, "components").tolist() == components(high).tolist()
    assert proposals(wide, "components").tolist() == components(wide).tolist()


def test_a_difficult_box_is_no_shot() -> None:
    hard = Objects(
        np.array([[0, 0, 9, 9], [10, 10, 19, 19]], np.float32), np.zeros(2, int), np.eye(2)[0] > 0
    )
    x = torch.zeros(4, 3, 30, 30, dtype=torch.uint8)
    split = SceneSplit(x, torch.full((4,), -1), ("a",), "hard", objects=(hard,) * 4)
    draws: Any = Regions(way=1, shot=2, query=1, crop=8).draws(split, 0)
    assert (draws.draw(list(range(9))).shots == 1).all()
    boxes, asked = torch.from_numpy(hard.boxes), Regions(way=1, shot=2, query=1, crop=8)
    x[:, :, 0:9, 0:9] = x[:, :, 10:19, 10:19] = 255
    _, target = gf.Episodes(split, asked).batch([0])
    overlap = box_iou(target.boxes[0], boxes)
    assert (target.query[0][overlap[:, 0] > 0.5] == -100).all(), "neither a hit nor a miss"
    assert (target.query[0][overlap[:, 1] > 0.5] == 1).any()

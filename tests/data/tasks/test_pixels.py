"""The task `pixels`: what episodes of masks hold, and what their metrics say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import graphfsl as gf
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.tasks import as_task
from graphfsl.data.transforms import Transform
from graphfsl.experiment.builder import build
from graphfsl.functional.cells import cell_shares
from graphfsl.functional.presence import presence
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.heads.panet import PANet
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.own_graph import OwnGraph
from graphfsl.nn.dense_conv import DenseConv
from tests.support.scenes import Colours, by_colour, scenes


def batch(**options: object) -> tuple[gf.Episode, object]:
    return gf.Episodes(scenes(), {"task": "pixels", **options}, seed=1).batch([0, 1, 2, 3])


def masked_means(maps: Tensor, w: Tensor) -> Tensor:
    """Masked average pooling as PANet writes it: mean over images of masked means (C, d)."""
    means = []
    for c in range(w.shape[1]):
        of_images = []
        for image, mask in zip(maps, w[:, c], strict=True):
            if mask.sum() > 0:
                of_images.append((image * mask).sum((-1, -2)) / mask.sum())
        means.append(torch.stack(of_images).mean(0))
    return torch.stack(means)


@pytest.mark.parametrize("soft", [False, True])
def test_protonet_on_cells_is_masked_average_pooling(soft: bool) -> None:
    """For hard and for soft masks, with shots of objects of different size."""
    torch.manual_seed(0)
    encoder = DenseConv(3, 8).eval()
    maps = torch.rand(1, 3, 2, 16, 16)
    if not soft:
        maps = F.one_hot((maps[:, :, 0] > 0.7).long(), 2).movedim(-1, 2).float()
        maps = maps.repeat_interleave(4, -1).repeat_interleave(4, -2)[..., :16, :16]
    maps[0, 1, 1, 4:] = 0  # a small object
    x = torch.randn(1, 4, 3, 16, 16)
    w = torch.cat([maps, torch.zeros(1, 1, 2, 16, 16)], 1)
    episode = gf.Episode(x, w, 3, 1, relabeled=False)
    found = Pipeline(encoder, head=ProtoNet()).eval()(episode)[0, 0]
    with torch.no_grad():
        features = encoder(x[0])
    p = masked_means(features[:3], cell_shares(w[0, :3], features.shape[-2:]))
    right = -(features[3, None] - p[:, :, None, None]).square().sum(1)
    torch.testing.assert_close(found.movedim(-1, 0), right, atol=1e-4, rtol=1e-4)


def test_the_query_that_is_the_support_gets_its_mask_back() -> None:
    split = scenes()
    x = (split.x[:1].float() / 255)[None].expand(1, 2, -1, -1, -1)
    truth = (split.maps[:1] >= 0).long()
    w = F.one_hot(truth, 2).movedim(-1, 1).float()[None]
    episode = gf.Episode(x, torch.cat([w, 0 * w], 1), 1, 1, relabeled=False)
    for learner in (by_colour(), by_colour(refine=OwnGraph(k=4))):
        assert torch.equal(learner(episode)[0, 0].argmax(-1), truth[0])


def test_an_episode_holds_background_classes_and_hidden_queries() -> None:
    target: Any
    episode, target = batch(way=2, shot=2, query=2)
    assert episode.w.shape == (4, 6, 3, 12, 12) and episode.way == 3
    assert not episode.w[:, episode.query].any()
    support = episode.w[:, episode.support]
    assert torch.equal(support.sum(2), torch.ones_like(support[:, :, 0]))
    assert support[:, :2, 1].any((-1, -2)).all() and not support[:, :2, 2].any()
    assert support[:, 2:, 2].any((-1, -2)).all() and not support[:, 2:, 1].any()
    assert target.query.shape == (4, 2, 12, 12)
    assert all(len(set(row)) == 6 for row in target.ids.tolist()), "no image twice"


def test_ignored_pixels_carry_no_weight_and_are_not_asked() -> None:
    episodes = gf.Episodes(scenes(ignored=True), {"task": "pixels"})
    episode, target = episodes.batch([0, 1])
    assert not episode.w[..., 0, :].any()
    assert (target.query[..., 0, :] == -100).all() and (target.query[..., 1:, :] >= 0).all()
    scores = torch.randn(2, 1, 12, 12, 2)
    other = scores.clone()
    other[:, :, 0] = -scores[:, :, 0]
    for metric in as_task({"task": "pixels"}).metrics.values():
        torch.testing.assert_close(
            metric.measure(scores, target, episode), metric.measure(other, target, episode)
        )
    of_all = [torch.cat([torch.zeros_like(s), s], 1) for s in (scores, other)]
    losses = [target.loss(s, episode) for s in of_all]
    torch.testing.assert_close(losses[0], losses[1])


def test_queries_without_the_class() -> None:
    split = scenes()
    task = as_task({"task": "pixels", "absent": 0.5, "query": 3})
    _, target = gf.Episodes(split, task).batch(range(60))
    shown = (target.query > 0).any(-1).any(-1)
    assert 0.35 < shown.float().mean() < 0.65
    found = evaluate(by_colour(), split, task, episodes=30).row().metrics
    assert found["mIoU"].value > 70, "colours tell the classes"
    assert found["AUROC of presence"].value > 95 and found["false foreground"].value < 40


def test_metrics_stand_beside_the_answers_that_need_no_learner() -> None:
    split = scenes()
    found = evaluate(by_colour(), split, {"task": "pixels"}, episodes=20)
    metrics = found.row().metrics
    share = float((split.maps >= 0).float().mean())
    assert abs(metrics["mIoU of all foreground"].value / 100 - share) < 0.05
    assert metrics["FB-IoU of nothing"].value == pytest.approx(50 * (1 - share), abs=3)
    assert metrics["mIoU"].value > 80 and found.row().setting == "inductive"


def test_pixels_have_no_place_but_in_a_graph_of_their_own() -> None:
    """Permuting the pixels of an image together with their labels permutes the scores."""
    episode, _ = batch(way=1, shot=1, query=1)
    learner = by_colour(refine=OwnGraph(k=4))
    order = torch.randperm(144)

    def moved(t: Tensor) -> Tensor:
        return t.flatten(-2)[..., order].unflatten(-1, (12, 12))

    shuffled = dataclasses.replace(episode, x=moved(episode.x), w=moved(episode.w))
    found, other = learner(episode), learner(shuffled)
    torch.testing.assert_close(
        found.flatten(2, 3)[:, :, order], other.flatten(2, 3), atol=1e-4, rtol=1e-4
    )


def test_masks_move_as_their_images_do() -> None:
    split = scenes()
    transform = Transform(rotate=40, translate=0.2, flip=True)
    _, target = gf.Episodes(split, {"task": "pixels"}, 0, transform).batch(range(8))
    episode, _ = gf.Episodes(split, {"task": "pixels"}, 0, transform).batch(range(8))
    w = episode.w[:, 0, 1] > 0
    gray = (episode.x[:, 0] - 128 / 255).abs().amax(1)
    assert float(gray[w].mean()) > 6 * float(gray[~w].mean())
    assert (target.query >= 0).all()


def test_draws_are_a_function_of_the_number_and_can_be_listed() -> None:
    task, split = as_task({"task": "pixels", "way": 2}), scenes()
    sampler = task.draws(split, 3)
    every = sampler.draw([0, 1, 2, 3])
    assert (sampler.draw([2]).ids == every.ids[2:3]).all()
    task.check_draw(every, split)
    broken = dataclasses.replace(every, classes=(every.classes + 1) % 3)
    with pytest.raises(ValueError, match="does not show its class"):
        task.check_draw(broken, split)


def test_presence_is_the_mean_of_the_most_probable_cells() -> None:
    scores = torch.randn(2, 5, 8, 3)
    p = scores.softmax(-1).flatten(1, 2)
    for b in range(2):
        for c in (1, 2):
            best = sorted(p[b, :, c].tolist(), reverse=True)[:2]
            assert float(presence(scores)[b, c - 1]) == pytest.approx(sum(best) / 2)


def test_a_small_network_learns_and_a_step_is_finite() -> None:
    split = gf.load_data("glyph_scenes", "val")
    learner = build(
        {"encoder": {"name": "dense_conv", "width": 8}, "head": "panet"}, split.shape, 2
    )
    episode, target = gf.Episodes(split, {"task": "pixels"}).batch([0, 1])
    loss = learner.train().loss(episode, target)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in learner.parameters())


def test_what_is_wrong_is_one_line() -> None:
    split = scenes()
    for options, message in (
        ({"way": 4}, "3 classes are shown by 2 images or more, but the task asks for 4"),
        ({"shot": 9}, "0 classes"),
        ({"absent": 1}, r"absent must lie in \[0, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            gf.Episodes(split, {"task": "pixels", **options})
    episode, _ = batch()
    for parts, message in (
        ({"head": "relationnet"}, "feature map of a whole image"),
        ({"head": "imprinting", "adapt": "maml"}, "inner loop takes no episodes whose pixels"),
    ):
        learner = build({"encoder": "conv4", **parts}, (3, 32, 32), 2)
        with pytest.raises(InputError, match=message):
            learner(episode)
    with pytest.raises(InputError, match="choose another policy"):
        Pipeline(Colours(), head=PANet(), batch_norm="each")(episode)

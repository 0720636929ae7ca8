"""Average precision and recall, against pycocotools and by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from graphfsl.functional.detection_metrics import (
    CROWD,
    Boxes,
    average_precision,
    average_recall,
    matches,
    surest,
)


def boxes(rows: list[list[float]], image: list[int], label: list[int], score: list[float]) -> Boxes:
    return Boxes(
        np.array(rows, np.float64).reshape(-1, 4),
        np.array(image, np.int64),
        np.array(label, np.int64),
        np.array(score, np.float64),
    )


def drawn(seed: int) -> tuple[Boxes, Boxes]:
    """Objects of 3 classes in 6 images, one in ten difficult, and detections around them."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (30, 2))
    truth = np.concatenate([corner, corner + rng.uniform(8, 30, (30, 2))], 1)
    image, label = rng.integers(0, 6, 30), rng.integers(1, 4, 30)
    difficult = (rng.random(30) < 0.1).astype(float)
    objects = Boxes(truth, image, label, difficult)
    picks = rng.integers(0, 30, 120)
    moved = truth[picks] + rng.normal(0, 3, (120, 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 2)
    wrong = np.where(rng.random(120) < 0.2, rng.integers(1, 4, 120), label[picks])
    return Boxes(moved, image[picks], wrong, rng.permutation(120) / 120), objects


def by_coco(found: Boxes, truth: Boxes) -> list[float]:
    """AP and AP50 of pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def lines(part: Boxes, scored: bool) -> list[dict[str, Any]]:
        out = []
        for i, (box, image, label, score) in enumerate(zip(*part, strict=True), 1):
            size = box[2:] - box[:2]
            line: dict[str, Any] = {"id": i, "image_id": int(image), "category_id": int(label)}
            line |= {"bbox": [*box[:2], *size], "area": float(size.prod()), "iscrowd": 0}
            line |= {"score": float(score)} if scored else {"iscrowd": int(score == CROWD)}
            out.append(line)
        return out

    with contextlib.redirect_stdout(io.StringIO()):
        right = coco.COCO()
        right.dataset = {
            "images": [{"id": k} for k in range(6)],
            "categories": [{"id": k} for k in (1, 2, 3)],
            "annotations": lines(truth, False),
        }
        right.createIndex()
        run = evaluation.COCOeval(right, right.loadRes(lines(found, True)), "bbox")
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]
    return [float(p[p > -1].mean()) for p in (precision, precision[:1])]


@pytest.mark.parametrize("seed", range(4))
def test_precision_agrees_with_pycocotools(seed: int) -> None:
    found, truth = drawn(seed)
    # it knows no difficult objects but crowds
    truth = truth._replace(score=CROWD * truth.score)
    right = by_coco(found, truth)
    assert abs(average_precision(found, truth) - right[0]) < 1e-6
    assert abs(average_precision(found, truth, [0.5]) - right[1]) < 1e-6


def test_perfect_is_one_and_what_follows_the_last_hit_does_not_matter() -> None:
    _, truth = drawn(0)
    real = truth.where(truth.score == 0)
    perfect = real._replace(score=np.linspace(1, 0.5, len(real.score)))
    assert average_precision(perfect, truth) == 1
    wrong = boxes([[90, 90, 99, 99]] * 5, [0] * 5, [1] * 5, [0.1] * 5)
    more = Boxes(*(np.concatenate(p) for p in zip(perfect, wrong, strict=True)))
    assert average_precision(more, truth) == 1


def test_a_duplicate_lowers_it_unless_it_ranks_last() -> None:
    truth = boxes([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0], [1, 1], [0, 0])
    first, second = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]
    last = boxes([first, second, first], [0, 0, 0], [1, 1, 1], [0.9, 0.8, 0.7])
    between = boxes([first, first, second], [0, 0, 0], [1, 1, 1], [0.9, 0.8, 0.7])
    assert average_precision(last, truth) == 1 > average_precision(between, truth)


def test_equal_scores_are_judged_together_and_images_are_ranked_together() -> None:
    truth = boxes([[0, 0, 10, 10]], [0], [1], [0])
    pair = boxes([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], [1, 1], [0.5, 0.5])
    other_way = pair.where(np.array([1, 0]))
    assert average_precision(pair, truth) == average_precision(other_way, truth) == 0.5
    found, truth = drawn(1)
    scaled = found._replace(score=np.where(found.image == 0, found.score / 10, found.score))
    assert average_precision(scaled, truth) != average_precision(found, truth)
    assert average_precision(found._replace(score=found.score / 10), truth) == average_precision(
        found, truth
    )


def test_difficult_objects_and_classes_without_objects() -> None:
    truth = boxes([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0], [1, 1], [0, 1])
    both = boxes([[20, 20, 30, 30], [0, 0, 10, 10]], [0, 0], [1, 1], [0.9, 0.8])
    assert average_precision(both, truth) == 1
    other = boxes([[0, 0, 5, 5]], [0], [2], [0.99])
    more = Boxes(*(np.concatenate(p) for p in zip(both, other, strict=True)))
    assert average_precision(more, truth) == 1
    nothing = boxes([], [], [], [])
    assert average_precision(nothing, truth) == 0 and np.isnan(average_precision(both, nothing))


def test_recall_is_of_any_class_and_counts_the_first_of_each_image() -> None:
    truth = boxes([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1], [1, 2], [0, 0])
    found = boxes(
        [[50, 50, 60, 60], [0, 0, 10, 10], [20, 20, 30, 30]], [0, 0, 1], [1, 1, 1], [3, 2, 1]
    )
    assert average_recall(found, truth, 1) == 0.5
    assert average_recall(found, truth, 2) == 1


def test_the_surest_of_each_image_are_kept_in_falling_order() -> None:
    found = boxes([[0, 0, 1, 1]] * 5, [0, 1, 0, 0, 1], [1] * 5, [0.2, 0.9, 0.5, 0.4, 0.1])
    kept = surest(found, 2)
    assert kept.score.tolist() == [0.9, 0.5, 0.4, 0.1]
    assert kept.image.tolist() == [1, 0, 0, 1]


def test_each_object_is_hit_once_and_a_difficult_one_does_not_count() -> None:
    truth = boxes([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0], [1, 1], [0, 1])
    rows: list[list[float]] = [[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [50, 0, 60, 10]]
    found = boxes(rows, [0] * 4, [1] * 4, [0.9, 0.8, 0.7, 0.6])
    hit, ignored = matches(found, truth, 0.5)
    assert hit[0] and not hit[1] and not hit[3]
    assert ignored.tolist() == [False, False, True, False]

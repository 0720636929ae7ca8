"""Pretraining by consistency on partly labeled base classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.data import Split
from graphfsl.data.batches import Batches, partly_labeled
from graphfsl.data.deck import label_split
from graphfsl.data.tasks._class_sampler import Sampler
from graphfsl.data.tasks.classes import Setting
from graphfsl.functional.affine import affine
from graphfsl.methods.pretrain.consistency import Consistency
from tests.support.inner_loops import WAY


def base(each: int = 10) -> Split:
    y = torch.arange(WAY).repeat_interleave(each)
    x = torch.randint(0, 256, (len(y), 1, 8, 8), dtype=torch.uint8)
    return Split(x, y, tuple(f"c{i}" for i in range(WAY)), "patterns/train")


def test_pretraining_and_episodes_see_the_same_labels() -> None:
    for seed in (0, 1):
        _, target = Batches(base(), labeled_fraction=0.2, label_seed=seed).batch(range(30))
        ids, y = target.ids[0], target.query[0]
        assert sorted(ids.tolist()) == list(range(30)), "the others are shown too"
        assert torch.equal(y[y >= 0], base().y[ids][y >= 0]) and (y >= 0).sum() == 6
        draw = Sampler(base(), Setting(3, 1, 1, 2, labeled_fraction=0.2, label_seed=seed)).draw(
            list(range(50))
        )
        assert set(draw.ids[:, :6].flatten().tolist()) == set(ids[y >= 0].tolist())
    assert (Batches(base()).batch(range(30))[1].query >= 0).all()


def test_hidden_labels_never_reach_the_loss() -> None:
    split = base()
    target, hidden = (
        Batches(split, labeled_fraction=0.2).batch(range(30))[1],
        label_split(split, 0.2, 0)[1],
    )
    assert set(target.ids[target.query == -100].tolist()) == set(hidden.tolist())
    seen = partly_labeled(split, 0.2, 0).y
    assert set((seen < 0).nonzero().flatten().tolist()) == set(hidden.tolist())
    assert torch.equal(seen[seen >= 0], split.y[seen >= 0])


def encode(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :6]


def test_consistency_equals_a_loop() -> None:
    part = Consistency(6, 3, threshold=0.4, weight=0.7)
    x, y = torch.rand(1, 12, 1, 8, 8), torch.tensor([[0, -100, 2, -100, 1, *[-100] * 7]])
    torch.manual_seed(5)
    found = part(encode, x, y)
    torch.manual_seed(5)
    u = 2 * torch.rand(7, 12) - 1
    labeled, free, used = [], [], 0
    far = (part.moves.rotate, part.moves.translate, part.moves.scale)
    for i in range(12):
        p = part.classifier(encode(x[:, i]))[0].softmax(-1)
        if y[0, i] >= 0:
            labeled.append(-p[y[0, i]].log())
            continue
        strong = affine(x[:, i], u[:, i : i + 1], *far)
        sure = p.max() >= 0.4
        free.append(-part.classifier(encode(strong))[0].log_softmax(-1)[p.argmax()] * sure)
        used += int(sure)
    assert 0 < used < len(free)
    torch.testing.assert_close(found, torch.stack(labeled).mean() + 0.7 * torch.stack(free).mean())


@pytest.mark.parametrize("labels", [[0, 1, 2], [-100] * 3])
def test_consistency_of_a_batch_of_one_kind(labels: list[int]) -> None:
    part, x, y = Consistency(6, 3, threshold=0.0), torch.rand(1, 3, 1, 8, 8), torch.tensor([labels])
    plain = F.cross_entropy(part.classifier(encode(x[0])), y[0]) if labels[0] >= 0 else None
    loss = part(encode, x, y)
    assert torch.isfinite(loss) and (plain is None or torch.allclose(loss, plain))

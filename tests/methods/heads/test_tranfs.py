"""TraNFS: torch's own transformer, the authors' three losses, and what a wrong label does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.tranfs import TraNFS
from graphfsl.testing import DIM, WAY, episodes
from tests.support.episodes import features

SMALL = {"layers": 2, "width": 8, "heads": 2}


def head(**options: float) -> TraNFS:
    torch.manual_seed(1)
    return TraNFS(DIM, WAY, **{**SMALL, **options}).double().eval()  # type: ignore[arg-type]


def by_torch(model: TraNFS, x: Tensor, y: Tensor) -> Tensor:
    """Support (k, d) of classes y (k,) through torch's layers with the same weights."""
    z = torch.cat([model.tokens + model.codes, x @ model.into + model.codes[y]])
    for layer in model.layers:
        own = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True).double().eval()
        attention = own.self_attn
        own.load_state_dict(
            {
                "self_attn.in_proj_weight": layer.read.weight,
                "self_attn.in_proj_bias": layer.read.bias,
                "self_attn.out_proj.weight": layer.write.weight,
                "self_attn.out_proj.bias": layer.write.bias,
                **{k: v for k, v in layer.state_dict().items() if k[:4] in ("line", "norm")},
            }
        )
        assert attention.num_heads == 2
        z = own(z[None])[0]
    return z @ model.out_of.T


def test_tranfs_is_the_authors_transformer() -> None:
    episode, model = features(shot=2), head(scale=3.0)
    scores = model.score(episode)
    for b in range(len(episode.x)):
        x, y = 3 * episode.x[b, episode.support], episode.w[b, episode.support].argmax(-1)
        out = by_torch(model, x, y)
        expected = -(3 * episode.x[b, :, None] - out[:WAY]).square().sum(-1)
        torch.testing.assert_close(scores[b], expected)
        torch.testing.assert_close(
            model.transformed(x[None], episode.w[b : b + 1, : len(x)])[1][0], out[WAY:]
        )


def test_tranfs_has_the_authors_three_losses() -> None:
    """One label of each class is wrong: the first node of class c is truly of class c + 1."""
    episode, (_, target) = features(shot=3), episodes(shot=3)
    given = episode.w[:, episode.support].argmax(-1)
    first = (torch.arange(3 * WAY) % 3 == 0).expand(len(given), -1)
    target = dataclasses.replace(target, support=given.where(~first, (given + 1) % WAY))
    plain, full = (
        head(detection=0.0, clean=0.0, scale=2.0),
        head(detection=0.3, clean=2.0, scale=2.0),
    )
    x, w = 2 * episode.x[:, episode.support], episode.w[:, episode.support]
    p, z = full.transformed(x, w)
    wrong = F.binary_cross_entropy_with_logits(full.detector(z).squeeze(-1), first.to(z))
    means = torch.stack([x[:, 3 * c + 1 : 3 * c + 3].mean(1) for c in range(WAY)], 1)
    off = (p - means).square().sum((1, 2)).mean() / WAY
    scores = plain.score(episode)
    torch.testing.assert_close(full.score(episode), scores)
    found = full.criterion(scores, target, episode) - plain.criterion(scores, target, episode)
    torch.testing.assert_close(found, 0.3 * wrong + 2.0 * off)


def test_without_wrong_labels_the_prototypes_are_to_be_the_class_means() -> None:
    episode, (_, target) = features(shot=2), episodes(shot=2)
    model, plain = head(detection=0.0), head(detection=0.0, clean=0.0)
    x, w = episode.x[:, episode.support], episode.w[:, episode.support]
    off = (model.transformed(x, w)[0] - prototypes(x, w)).square().sum((1, 2)).mean() / WAY
    scores = model.score(episode)
    found = model.criterion(scores, target, episode) - plain.criterion(scores, target, episode)
    torch.testing.assert_close(found, off)


def test_a_node_of_weight_two_is_two_nodes() -> None:
    episode, model = features(shot=2), head()
    x, w = episode.x[:, episode.support], episode.w[:, episode.support].clone()
    twice = model.transformed(torch.cat([x[:, :1], x], 1), torch.cat([w[:, :1], w], 1))[0]
    w[:, 0] *= 2
    torch.testing.assert_close(model.transformed(x, w)[0], twice)


def test_tranfs_begins_as_the_authors_does() -> None:
    model = TraNFS(300, 40)
    eye = torch.eye(128)
    torch.testing.assert_close(model.into.T @ model.into, eye, atol=1e-5, rtol=0)
    assert torch.equal(model.into, model.out_of)
    for drawn in (model.tokens, model.codes.detach()):
        assert abs(float(drawn.std()) - 1) < 0.05
    assert not model.tokens.requires_grad
    layer = model.layers[0]
    assert (len(model.layers), layer.heads, layer.linear1.out_features) == (3, 8, 128)
    assert (model.detection, model.clean, model.scale, layer.dropout.p) == (0.5, 1, 1, 0.1)


@pytest.mark.parametrize("options", [{"heads": 3}, {"layers": 0}, {"dropout": 1.0}, {"clean": -1}])
def test_options_of_tranfs(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="tranfs"):
        head(**options)


def with_wrong_labels(seed: int, tasks: int) -> tuple[Episode, Target]:
    """Three classes of five shots, of which the first is of the next class, and four queries."""
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(tasks, 3, 1, 16, generator=g)
    images = centres + 1.5 * torch.randn(tasks, 3, 9, 16, generator=g)
    images[:, :, 0] = images[:, :, 0].roll(-1, 1)
    classes = torch.arange(3)
    true = classes.repeat_interleave(5).view(3, 5).clone()
    true[:, 0] = (classes + 1) % 3
    x = torch.cat([images[:, :, :5].flatten(1, 2), images[:, :, 5:].flatten(1, 2)], 1)
    w = F.one_hot(classes.repeat_interleave(5), 3).float()
    w = F.pad(w, (0, 0, 0, 12)).expand(tasks, -1, -1)
    query = classes.repeat_interleave(4).expand(tasks, -1)
    no_pool, unknown = query[:, :0], torch.zeros(tasks, 27, dtype=torch.long)
    target = Target(query, no_pool, unknown, unknown[:, :3], None, true.flatten().expand(tasks, -1))
    return Episode(x, w, 15, 12, relabeled=False), target


def test_tranfs_learns_to_answer_and_which_labels_are_wrong() -> None:
    torch.manual_seed(0)
    model = TraNFS(16, 3, layers=2, width=32, heads=4, dropout=0.0, detection=100.0, clean=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(400):
        episode, target = with_wrong_labels(step, 16)
        loss = model.criterion(model.score(episode), target, episode)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    episode, target = with_wrong_labels(10_000, 200)
    answers = model(episode).argmax(-1)
    assert (answers == target.query).float().mean() > 0.6, "chance is 0.33"
    nodes = model.transformed(episode.x[:, :15], episode.w[:, :15])[1]
    said = model.detector(nodes).squeeze(-1)
    wrong = target.right(episode).sum(-1) == 0
    assert wrong.sum() == 600
    above = (said[wrong][:, None] > said[~wrong]).float().mean()
    assert above > 0.9, "chance is 0.5"

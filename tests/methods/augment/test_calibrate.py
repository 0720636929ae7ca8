"""Closed forms of calibration, by loops, and what they are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.calibrate import Calibrate
from graphfsl.testing import DIM, WAY
from tests.support.base_classes import base_features
from tests.support.episodes import features

FORMS = ("teen", "nearest", "ridge")


def fitted(form: str, **options: float) -> tuple[Calibrate, Tensor, Tensor]:
    x, y, _ = base_features()
    part = Calibrate(DIM, form, **options)  # type: ignore[arg-type]
    part.fit_base(x, y)
    return part.double().eval(), x.double(), y


def base_means(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x[y == c].mean(0) for c in range(int(y.max()) + 1)])


def test_teen_is_its_equation() -> None:
    part, x, y = fitted("teen", temperature=4.0)
    episode, means = features(shot=2), part.means  # those of `base_means`, rounded
    torch.testing.assert_close(means, base_means(x, y), atol=1e-5, rtol=1e-5)
    p = prototypes(episode.x, episode.w)
    for b in range(len(p)):
        for c in range(WAY):
            similar = [float(F.cosine_similarity(p[b, c], m, dim=0)) for m in means]
            share = torch.tensor(similar, dtype=torch.double).mul(4).softmax(0)
            torch.testing.assert_close(part.target(episode)[b, c], share @ means)


def test_nearest_is_the_mean_of_distribution_calibration() -> None:
    """With k = 2 and a weight of 2 to one shot: (mu_1 + mu_2 + x) / 3, equation 6."""
    part, _, _ = fitted("nearest", weight=2.0)
    episode, means = features(shot=1), part.means
    moved = prototypes(part(episode).x, part(episode).w)
    for b in range(len(moved)):
        for i in range(WAY):
            sample, c = episode.x[b, i], int(episode.w[b, i].argmax())
            near = (means - sample).square().sum(1).argsort()[:2]
            torch.testing.assert_close(moved[b, c], (means[near].sum(0) + sample) / 3)


def test_ridge_minimises_its_objective() -> None:
    part, x, y = fitted("ridge", strength=0.1)
    assert part.map is not None and part.shift is not None
    goal = base_means(x, y)[y]

    def objective(w: Tensor, v: Tensor) -> Tensor:
        return (x @ w.mT + v - goal).square().sum() + 0.1 * len(x) * w.square().sum()

    w, v = (t.clone().requires_grad_() for t in (part.map, part.shift))
    for gradient in torch.autograd.grad(objective(w, v), (w, v)):
        assert gradient.abs().max() < 1e-3 * len(x)
    assert objective(part.map, part.shift) < objective(torch.eye(DIM).double(), 0 * part.shift)


@pytest.mark.parametrize("form", FORMS)
def test_class_means_move_by_the_weight_and_less_with_more_shots(form: str) -> None:
    part, _, _ = fitted(form, weight=2.0)
    for shot in (1, 4):
        episode = features(shot=shot)
        grown, a = part(episode), 2 / (2 + shot)
        p = prototypes(episode.x, episode.w)
        expected = (1 - a) * p + a * part.target(episode)
        torch.testing.assert_close(prototypes(grown.x, grown.w), expected)


@pytest.mark.parametrize("form", FORMS)
def test_absent_classes_get_nothing_and_a_weight_of_0_changes_nothing(form: str) -> None:
    part, _, _ = fitted(form)
    wider = features().more_classes(1)
    grown = part(wider)
    assert not grown.w[..., -1].any() and grown.mask.sum() == wider.mask.sum() + 2 * WAY
    off, _, _ = fitted(form, weight=0.0)
    assert off(wider) is wider


@pytest.mark.parametrize("form", FORMS)
def test_a_single_sample_comes_nearer_to_its_class(form: str) -> None:
    """New classes between the base classes, as their means lie along few directions."""
    g = torch.Generator().manual_seed(1)
    directions = torch.randn(2, DIM, generator=g)
    means = 2 * torch.randn(200, 2, generator=g) @ directions
    x = means.repeat_interleave(30, 0) + torch.randn(6000, DIM, generator=g)
    part = Calibrate(DIM, form, neighbors=5)
    part.fit_base(x, torch.arange(200).repeat_interleave(30))
    new = 2 * torch.randn(100, 2, generator=g) @ directions
    samples = new + torch.randn(100, DIM, generator=g)
    grown = part(Episode(samples[None], torch.eye(100)[None], 100, 0))
    moved = prototypes(grown.x, grown.w)[0]
    assert (moved - new).square().sum() < 0.85 * (samples - new).square().sum()


def test_stored_base_classes_are_loaded_whatever_their_number() -> None:
    part, _, _ = fitted("teen")
    other = Calibrate(DIM)
    other.make_room(part.state_dict())
    other.load_state_dict(part.float().state_dict())
    assert torch.equal(other.means, part.means) and len(other.means) == 12


def test_too_few_base_classes_and_unknown_forms_are_refused() -> None:
    x, y, _ = base_features(classes=2)
    with pytest.raises(InputError, match="calibrate needs 3 base classes or more"):
        Calibrate(DIM, "nearest", neighbors=3).fit_base(x, y)
    with pytest.raises(InputError, match="ridge"):
        Calibrate(DIM, "ridgee")

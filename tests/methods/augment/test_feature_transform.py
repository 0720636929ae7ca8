"""Feature transforms: the formulas, and what parts behind them see of base features."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.calibrate import Calibrate
from graphfsl.methods.augment.feature_transform import FeatureTransform
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.testing import DIM
from tests.support.base_classes import base_features
from tests.support.episodes import features


def test_power_centring_and_length_are_taken_in_this_order() -> None:
    x, y, _ = base_features()
    part = FeatureTransform(DIM, power=0.5)
    part.fit_base(x, y)
    episode = features()
    episode = episode.replace(x=episode.x.float(), w=episode.w.float(), relabeled=False)
    root = episode.x.sign() * episode.x.abs().sqrt()
    mean = (x.sign() * x.abs().sqrt()).mean(0)
    torch.testing.assert_close(part(episode).x, F.normalize(root - mean, dim=-1))


def test_all_steps_left_out_change_nothing() -> None:
    episode = features()
    part = FeatureTransform(DIM, centre=False, unit=False)
    assert torch.equal(part(episode).x, episode.x) and not part.wants_base


def test_it_makes_nearest_class_means_simple_shot() -> None:
    """CL2N is centring and length 1 before nearest class means (Wang 2019)."""
    x, y, _ = base_features()
    episode = features(shot=3)
    episode = episode.replace(x=episode.x.float(), w=episode.w.float(), relabeled=False)
    whole = SimpleShot(DIM)
    whole.fit_base(x, y)
    chained = Pipeline(augment=FeatureTransform(DIM), head=SimpleShot(DIM, transform="un"))
    chained.fit_base(x, y)
    torch.testing.assert_close(chained.score(episode), whole.score(episode))


def test_parts_behind_it_learn_from_transformed_base_features() -> None:
    x, y, _ = base_features()
    pipeline = Pipeline(
        augment=FeatureTransform(DIM, power=0.5, centre=False), head=SimpleShot(DIM)
    )
    pipeline.fit_base(x, y)
    root = F.normalize(x.sign() * x.abs().sqrt(), dim=-1)
    assert isinstance(pipeline.head, SimpleShot) and pipeline.head.mean is not None
    torch.testing.assert_close(pipeline.head.mean, root.mean(0))


def test_an_episode_is_centred_by_its_own_nodes() -> None:
    episode = features(unlabeled=2)
    part = FeatureTransform(DIM, centre="episode", unit=False)
    assert part.transductive and part.uses_unlabeled and not part.wants_base
    expected = episode.x - episode.x.mean(1, keepdim=True)
    torch.testing.assert_close(part(episode).x, expected)
    shorter = episode.mask.clone()
    shorter[:, -2:] = False
    found = part(episode.replace(mask=shorter)).x
    torch.testing.assert_close(found[:, :-2].mean(1), torch.zeros_like(found[:, 0]))


def test_parts_behind_an_episode_s_centre_learn_from_centred_base_features() -> None:
    """Base means that keep their common part would lie far from every centred sample."""
    x, y, _ = base_features()
    calibrate = Calibrate(DIM)
    pipeline = Pipeline(
        augment=[FeatureTransform(DIM, centre="episode"), calibrate], head=ProtoNet()
    )
    pipeline.fit_base(x + 5, y)
    centred = F.normalize(x - x.mean(0), dim=-1)
    expected = torch.stack([centred[y == c].mean(0) for c in y.unique()])
    torch.testing.assert_close(calibrate.means, expected, atol=1e-5, rtol=1e-4)


def test_a_centre_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="must be true, false or episode, not 'pool'"):
        FeatureTransform(DIM, centre="pool")


def test_a_power_outside_of_its_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"power must be in \(0, 1\], not 0"):
        FeatureTransform(DIM, power=0)

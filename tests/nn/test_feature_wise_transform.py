"""Feature-wise transformation: noise of each image and channel, in training alone."""

from __future__ import annotations

import torch
from torch import nn

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.experiment.encoders import make_encoder
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.nn.feature_wise_transform import FeatureWiseTransform
from tests.support.refusal import refused

SHAPE = (1, 16, 16)


def conv4(feature_wise: object = False) -> nn.Module:
    torch.manual_seed(0)
    options = {"width": 4} | ({} if feature_wise is False else {"feature_wise": feature_wise})
    encoder, _, _ = make_encoder(PartSpec("conv4", options), SHAPE)
    assert encoder is not None
    return encoder


def transformed(transform: FeatureWiseTransform, x: torch.Tensor) -> torch.Tensor:
    norm = BatchNorm(x.shape[1])
    norm.register_forward_hook(transform)
    result: torch.Tensor = norm(x)
    return result.detach()


def test_it_is_off_in_evaluation_to_the_bit_and_weights_keep_their_names() -> None:
    plain, noisy = conv4().eval(), conv4(True).eval()
    x = torch.rand(3, *SHAPE)
    assert torch.equal(plain(x), noisy(x))
    assert plain.state_dict().keys() == noisy.state_dict().keys()
    assert not torch.allclose(plain.train()(x), noisy.train()(x))


def test_each_image_and_channel_is_scaled_and_shifted_as_a_whole() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 5, 4, 4)
    before, after = (transformed(FeatureWiseTransform(*o), x) for o in ((-1e9, -1e9), (0.3, 0.5)))
    centred = before - before.mean((2, 3), keepdim=True)
    moved = after - after.mean((2, 3), keepdim=True)
    scale = (moved * centred).sum((2, 3)) / centred.square().sum((2, 3))
    torch.testing.assert_close(moved, scale[..., None, None] * centred)
    # the authors' softplus is all but the identity for these
    assert abs(float(scale.mean()) - 1) < 0.05 and abs(float(scale.std()) - 0.3) < 0.03
    shift = after.mean((2, 3)) - scale * before.mean((2, 3))
    assert abs(float(shift.mean())) < 0.1 and abs(float(shift.std()) - 0.5) < 0.05


def test_without_spread_it_changes_nothing() -> None:
    x = torch.randn(4, 3, 2, 2)
    nothing = FeatureWiseTransform(float("-inf"), float("-inf"))
    assert torch.equal(transformed(nothing, x), BatchNorm(3)(x))


def test_what_cannot_be_transformed_is_refused() -> None:
    with refused("feature_wise", "gamma"):
        conv4("yes")
    with refused("unknown option of learner.encoder.feature_wise 'gama'", "gamma"):
        conv4({"gama": 1.0})
    with refused("has none", "conv4"):
        make_encoder(PartSpec("mlp", {"feature_wise": True}), (6,))

"""Parts that generate images: they work before the encoder, in whatever company."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.batchnorm import POLICIES
from graphfsl.core.image_generator import ImageGenerator, LearnedImageGenerator
from graphfsl.core.learner import Augment, Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment.builder import build
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.augment.feature_transform import FeatureTransform
from graphfsl.methods.augment.hallucinator import Hallucinator
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.metagan import MetaGAN
from graphfsl.methods.heads.proto_maml import ProtoMAML
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import SHAPE, WAY, TinyEncoder, episodes, part, unlike_fresh


class Brighter(ImageGenerator):
    """Each labeled image once more, brighter by a half; without noise."""

    of_samples = True

    def __init__(self, shape: Sequence[int] = SHAPE, samples: int = 1, weight: float = 1.0) -> None:
        super().__init__(shape, (), samples, weight)

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        shown = condition.unsqueeze(2) + 0.5
        return shown.expand(-1, -1, noise.shape[2], *condition.shape[2:])


def pipeline(policy: str = "running", *augment: ImageGenerator, head: str = "protonet") -> Pipeline:
    torch.manual_seed(0)
    scorer = {"protonet": ProtoNet, "linear": lambda: Linear(6, WAY), "proto_maml": ProtoMAML}
    net = Pipeline(
        TinyEncoder(), augment=list(augment) or None, head=scorer[head](), batch_norm=policy
    )
    return unlike_fresh(net)  # type: ignore[return-value]


@pytest.mark.parametrize("policy", POLICIES)
def test_generated_images_are_support_images(policy: str) -> None:
    """What a part appends answers as if the episode had come with it."""
    episode, target = episodes()
    k, x, w = episode.n_support, episode.x, episode.w
    grown = episode.add_support(x[:, :k] + 0.5, w[:, :k], episode.mask[:, :k])
    with_part, plain = (pipeline(policy, *p).eval() for p in ((Brighter(),), ()))
    by_hand = plain.score(grown)
    by_hand = torch.cat([by_hand[:, :k], by_hand[:, 2 * k :]], 1)
    torch.testing.assert_close(with_part.score(episode), by_hand)
    torch.testing.assert_close(with_part.loss(episode, target), plain.loss(grown, target))


@pytest.mark.parametrize("params", ["*", "head.*"], ids=["all", "head"])
@pytest.mark.parametrize("frozen", [False, True], ids=["learns", "frozen"])
def test_an_inner_loop_adapts_to_generated_images(params: str, frozen: bool) -> None:
    episode, _ = episodes()
    k, x, w = episode.n_support, episode.x, episode.w
    grown = episode.add_support(x[:, :k] + 0.5, w[:, :k], episode.mask[:, :k])

    def loop(*augment: ImageGenerator) -> Learner:
        net = pipeline("running", *augment, head="linear").eval()
        net.encoder.requires_grad_(not frozen)
        return MAML(net, lr=0.5, steps=2, params="head.*" if frozen else params)

    by_hand = loop().eval()(grown)
    torch.testing.assert_close(loop(Brighter()).eval()(episode), by_hand)
    assert not torch.allclose(loop().eval()(episode), by_hand)


def test_imprinted_weights_rest_on_generated_images() -> None:
    episode, _ = episodes()
    k, x, w = episode.n_support, episode.x, episode.w
    grown = episode.add_support(x[:, :k] + 0.5, w[:, :k], episode.mask[:, :k])

    def loop(*augment: ImageGenerator) -> Adapt:
        return MAML(pipeline("running", *augment, head="proto_maml"), lr=0.1, steps=1)

    torch.testing.assert_close(loop(Brighter()).eval()(episode), loop().eval()(grown))


def test_no_image_is_encoded_without_its_episode() -> None:
    assert pipeline().fixed
    assert not pipeline("running", Brighter()).fixed
    features = pipeline("running", Brighter()).on_features()
    assert not features.image_parts
    assert features.fixed
    assert pipeline("running", Brighter(samples=0)).fixed


def test_it_is_shown_images_and_others_features() -> None:
    seen = {}

    class Looks(Brighter):
        wants_base = True

        def fit_base(self, features: Tensor, labels: Tensor) -> None:
            seen["images"] = features

    net = pipeline("running", Looks())
    features, images, labels = torch.randn(4, 6), torch.randn(4, *SHAPE), torch.arange(4)
    with pytest.raises(InputError, match="Looks learns from base images; give images"):
        net.fit_base(features, labels)
    net.fit_base(features, labels, images=images)
    assert torch.equal(seen["images"], images)


def test_features_and_large_images_are_refused() -> None:
    with pytest.raises(InputError, match="generates images, but samples are vectors of length 64"):
        build({"augment": "affine_copies", "head": "protonet"}, (64,), 5)
    with pytest.raises(InputError, match="at most 96 x 96 pixels, not 112 x 112; choose"):
        build({"encoder": "conv4", "augment": "dagan", "head": "protonet"}, (3, 112, 112), 5)


class Learns(LearnedImageGenerator):
    def __init__(self) -> None:
        super().__init__((2, 3, 3), (1,), 1, 1.0)


def test_values_are_scaled_by_the_range_of_base_images() -> None:
    images = torch.rand(10, 2, 3, 3) * torch.tensor([2.0, 5.0])[:, None, None] - 1
    learns = Learns()
    learns.see_range(images, torch.arange(10))
    scaled = learns.scaled(images)
    assert scaled.amin((0, 2, 3)).tolist() == [0, 0]
    assert scaled.amax((0, 2, 3)).tolist() == [1, 1]
    torch.testing.assert_close(learns.unscaled(scaled), images)


def test_base_images_that_teach_nothing_are_refused() -> None:
    images, labels = torch.rand(4, 2, 3, 3), torch.arange(4)
    with pytest.raises(InputError, match=r"built for images \(2, 3, 3\), but .* \(1, 3, 3\)"):
        Learns().see_range(images[:, :1], labels)
    images[2, 0, 1, 1] = float("nan")
    with pytest.raises(InputError, match="base images hold NaN or infinity, from which Learns"):
        Learns().see_range(images, labels)


def test_weights_keep_their_names_behind_a_part_of_images() -> None:
    """In whatever order the parts stand, the same weights adapt on features."""
    episode, target = episodes()

    def loop(image_part_first: bool) -> Learner:
        torch.manual_seed(0)
        parts: list[Augment] = [Brighter(), Hallucinator(6)]
        net = Pipeline(
            TinyEncoder(),
            augment=parts if image_part_first else parts[::-1],
            head=ProtoMAML(),
            batch_norm="running",
        )
        net.encoder.requires_grad_(False)
        return MAML(net, lr=0.1, steps=2, params=["*", "!encoder.*"]).eval()

    first, last = loop(True), loop(False)
    torch.testing.assert_close(first(episode), last(episode))
    torch.testing.assert_close(first.loss(episode, target), last.loss(episode, target))


def test_a_clone_which_knows_no_support_is_refused() -> None:
    net = pipeline("running", Brighter(), head="linear")
    with pytest.raises(InputError, match="Brighter generates images of an episode's support"):
        MAML(net, lr=0.1, steps=1).clone()
    MAML(pipeline("running", Brighter(samples=0), head="linear"), lr=0.1, steps=1).clone()


def test_a_loop_around_a_loop_generates_once() -> None:
    class Counts(Brighter):
        seen = 0

        def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
            Counts.seen += 1
            return super().draw(condition, noise)

    inner = MAML(pipeline("running", Counts(), head="linear"), lr=0.1, steps=1, params="head.*")
    MAML(inner, lr=0.1, steps=2, params="*head.*").eval()(episodes()[0])
    assert Counts.seen == 1


def test_a_head_that_is_tied_to_its_shots_takes_no_generated_images() -> None:
    with pytest.raises(InputError, match="DPGN is tied to 2-shot episodes, so that it cannot take"):
        Pipeline(TinyEncoder(), augment=Brighter(), head=part("head", "dpgn"))


def test_samples_of_another_kind_are_one_line() -> None:
    net, (episode, _) = pipeline("running", Brighter()), episodes()
    right = r"built for normalised images \(1, 8, 8\), but this episode holds "
    with pytest.raises(InputError, match=right + r"\(1, 8, 8\) of uint8"):
        net(episode.with_tensors({"x": episode.x.byte()}))
    with pytest.raises(InputError, match=right + r"\(64,\) of float32"):
        net(episode.with_tensors({"x": episode.x.flatten(2)}))


def test_a_loss_reads_features_as_the_head_sees_them() -> None:
    """MetaGAN's fakes stand in the space of its scores, whatever rewrites features before it."""
    episode, target = episodes()
    torch.manual_seed(0)
    net = Pipeline(TinyEncoder(), augment=FeatureTransform(6), head=MetaGAN(6)).eval()
    with torch.no_grad():
        features = net.encode(episode)
        moved = net.augment[0](features)
        torch.manual_seed(1)
        found = net.loss(episode, target)
        torch.manual_seed(1)
        expected = net.head.loss(moved, target)
    torch.testing.assert_close(found, expected)

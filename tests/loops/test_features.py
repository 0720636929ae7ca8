"""Features on disk: computed once, the same to the bit, resumed after a kill, done without where
there is no disk.
"""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from graphfsl import data
from graphfsl.apply import folder_features
from graphfsl.apply.folder_features import encode_files, write_features
from graphfsl.core import encoder as encoding
from graphfsl.core import registry
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Split, Transform
from graphfsl.io.errors import InputError
from graphfsl.loops import feature_cache as features
from graphfsl.loops.encode import encode_split
from graphfsl.loops.encoder_digest import encoder_digest
from graphfsl.loops.feature_cache import cached_features
from graphfsl.nn import Conv4
from tests.support import ROOT

TRANSFORM = Transform([0.5], [0.25])
IMAGES, BLOCK = 26, 4  # 7 blocks, the last one of 2

# What another process does: count the blocks that it encodes, and die in the one given.
CHILD = """
import os, signal, sys
import tests.loops.test_features as t
from graphfsl.core import encoder as encoding
from graphfsl.loops import feature_cache as features
encoding.IMAGES_AT_ONCE, die, encode, count = t.BLOCK, int(sys.argv[1]), features.encode, 0
def counting(*args):
    global count
    count += 1
    if count == die:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return encode(*args)
features.encode = counting
features.cached_features(t.learner(), t.split(), t.TRANSFORM)
print(count)
"""


def learner(width: int = 4, seed: int = 0) -> Pipeline:
    torch.manual_seed(seed)
    return Pipeline(Conv4(1, width), head=registry.get("head", "protonet")()).train()


def split(changed: int | None = None) -> Split:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 28, 28), np.uint8))
    if changed is not None:
        x[changed, 0, 5, 5] ^= 1
    return Split(x, torch.arange(IMAGES) % 3, ("a", "b", "c"), "tiny/train")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "IMAGES_AT_ONCE", BLOCK)
    return tmp_path / "cache" / "features"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the blocks that were encoded so far."""
    encode = features.encode  # type: ignore[attr-defined]
    sizes: list[int] = []

    def counting(learner: Pipeline, x: torch.Tensor, *args: object) -> torch.Tensor:
        sizes.append(len(x))
        return encode(learner, x, *args)  # type: ignore[arg-type]

    for caller in (features, folder_features):
        monkeypatch.setattr(caller, "encode", counting)
    return sizes


def child(die: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(die)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_features_are_computed_once_and_equal_the_encoders_to_the_bit(
    cache: Path, encoded: list[int]
) -> None:
    net = learner()
    first = cached_features(net, split(), TRANSFORM)
    assert encoded == [4, 4, 4, 4, 4, 4, 2] and net.training and net.encoder.training
    assert first.x.shape == (IMAGES, 4) and first.x.dtype == torch.float32
    assert torch.equal(first.x, encode_split(net, split(), TRANSFORM).x)
    net.eval()
    with torch.no_grad():
        alone = torch.cat([net.readout(net.encoder(TRANSFORM(x[None]))) for x in split().x])
    assert torch.allclose(first.x, alone, atol=1e-6)
    assert torch.equal(first.y, split().y) and (first.classes, first.name) == (
        split().classes,
        split().name,
    )
    encoded.clear()
    # augmentation plays no part
    again = cached_features(learner(), split(), Transform([0.5], [0.25], rotate=10))
    assert encoded == [] and torch.equal(again.x, first.x)
    assert [p.suffix for p in sorted(cache.iterdir())] in ([".lock", ".npy"], [".npy"])


def test_whatever_features_depend_on_makes_others(encoded: list[int]) -> None:
    class Doubled(Conv4):
        factor = 2.0

        def __init__(self, factor: float) -> None:
            super().__init__(1, 4)
            self.factor = factor

        def readout(self, maps: torch.Tensor) -> torch.Tensor:
            return self.factor * maps.flatten(1)

    def doubled(factor: float) -> Pipeline:
        torch.manual_seed(0)
        return Pipeline(Doubled(factor), head=registry.get("head", "protonet")())

    moved = learner()
    moved.encoder.norms[0].running_mean += 0.5
    tables = [
        cached_features(*args).x
        for args in [
            (learner(), split(), TRANSFORM),
            (learner(seed=1), split(), TRANSFORM),
            (moved, split(), TRANSFORM),
            (doubled(2.0), split(), TRANSFORM),
            (doubled(3.0), split(), TRANSFORM),
            (learner(), split(), Transform([0.4], [0.25])),
            (learner(), split(changed=25), TRANSFORM),
        ]
    ]
    assert len(encoded) == 7 * len(tables)
    assert all(not torch.equal(a, b) for i, a in enumerate(tables) for b in tables[:i])


def test_a_killed_process_is_resumed_from_its_blocks(cache: Path, encoded: list[int]) -> None:
    killed = child(die=6)
    assert killed.communicate()[0] == "" and killed.returncode != 0
    assert [p.suffix for p in sorted(cache.iterdir()) if p.suffix != ".lock"] == [".part"]
    found = cached_features(learner(), split(), TRANSFORM)
    # five blocks were written, and the last of them may have been half written
    assert encoded == [4, 4, 2]
    assert torch.equal(found.x, encode_split(learner(), split(), TRANSFORM).x)
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize(
    ("damage", "blocks"),
    [
        # the fifth block is half written: it and the one before it are made again
        (lambda b: b[:-3], 4),
        (lambda b: b[:-30] + bytes(30), 3),  # its space is there, but not its bytes
        (lambda b: b[:150], 7),
        (lambda b: b[:20], 7),
        (lambda b: b"", 7),
        (lambda b: b"junk" * 100, 7),
    ],
)
def test_a_half_written_file_does_no_harm(
    cache: Path, encoded: list[int], damage: Callable[[bytes], bytes], blocks: int
) -> None:
    expected = cached_features(learner(), split(), TRANSFORM).x.clone()
    [file] = cache.glob("*.npy")
    whole, row = file.read_bytes(), 4 * 4
    file.with_suffix(".part").write_bytes(damage(whole[: len(whole) - (IMAGES - 5 * BLOCK) * row]))
    file.unlink()
    encoded.clear()
    assert torch.equal(cached_features(learner(), split(), TRANSFORM).x, expected)
    assert len(encoded) == blocks
    assert file.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\1\0\xff\xff{"])
def test_a_broken_file_is_made_again(cache: Path, encoded: list[int], content: bytes) -> None:
    expected = cached_features(learner(), split(), TRANSFORM).x.clone()
    [file] = cache.glob("*.npy")
    file.write_bytes(content)
    assert torch.equal(cached_features(learner(), split(), TRANSFORM).x, expected)
    assert len(encoded) == 14


def test_two_processes_share_the_work(cache: Path) -> None:
    counts = [int(p.communicate()[0]) for p in [child(), child()]]
    assert sorted(counts) == [0, 7]
    assert torch.equal(
        cached_features(learner(), split(), TRANSFORM).x,
        encode_split(learner(), split(), TRANSFORM).x,
    )


def test_without_a_cache_features_are_computed_with_a_warning(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encode_split(learner(), split(), TRANSFORM).x

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match="No space left"):
            assert torch.equal(cached_features(learner(), split(), TRANSFORM).x, expected)
    assert not list(cache.glob("*.npy"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="features are not kept in"):
        assert torch.equal(cached_features(learner(), split(), TRANSFORM).x, expected)


def test_blocks_hold_as_many_pixels_as_the_encoder_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "IMAGES_AT_ONCE", 1024)
    encoder = Conv4(3)
    sizes = [encoding.block_size(encoder, (3, side, side), "cpu") for side in (28, 56, 84, 2000)]
    assert sizes == [1024, 256, 113, 1]
    assert encoding.block_size(encoder, (3, 28, 28), "cuda") == 8192
    encoder.size = 224  # type: ignore[assignment]
    assert encoding.block_size(encoder, (3, 32, 32), "cpu") == 16
    encoder.size = (32, 32)  # type: ignore[assignment]  # a user's own attribute of this name
    assert encoding.block_size(encoder, (3, 28, 28), "cpu") == 1024


def draw(folder: Path, names: list[str], seed: int = 0) -> None:
    """An image of its own under each name, 40 x 30 pixels."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / name)


def color() -> Pipeline:
    torch.manual_seed(0)
    return Pipeline(Conv4(3, 4), head=registry.get("head", "protonet")())


def test_a_folder_of_three_images_a_class_becomes_arrays(
    tmp_path: Path, encoded: list[int]
) -> None:
    root, transform = tmp_path / "birds", Transform([0.5] * 3, [0.5] * 3)
    draw(root, [f"{c}/{i}.png" for c in ("wren", "jay") for i in range(3)] + ["unlabeled/x.png"])
    assert write_features(color(), transform, root, tmp_path / "out", size=28) == [
        tmp_path / "out/test.npz"
    ]
    with np.load(tmp_path / "out/test.npz", allow_pickle=False) as file:
        paths = file["paths"].tolist()
        assert file["features"].dtype == np.float32
    assert paths == [
        *(f"{c}/{i}.png" for c in ("jay", "wren") for i in range(3)),
        "unlabeled/x.png",
    ]
    read = data.load("arrays", "test", root=str(tmp_path / "out"))
    assert read.classes == ("jay", "wren") and read.y.tolist() == [0, 0, 0, 1, 1, 1, -1]
    images = data.load("folder", "test", root=str(root), size=28, fractions=[0, 0, 1])
    assert torch.equal(read.x, encode_split(color(), images, transform).x)
    encoded.clear()
    write_features(color(), transform, root, tmp_path / "out", size=28)
    assert not encoded
    draw(root, ["jay/0.png"], seed=1)
    write_features(color(), transform, root, tmp_path / "out", size=28)
    assert encoded == [4, 3]
    assert not torch.equal(data.load("arrays", "test", root=str(tmp_path / "out")).x, read.x)


def test_each_split_of_a_folder_gets_its_file(tmp_path: Path) -> None:
    draw(
        tmp_path / "in",
        [f"{s}/{s}{c}/{i}.jpg" for s in ("train", "test") for c in "ab" for i in range(2)],
    )
    written = write_features(color(), Transform(), tmp_path / "in", tmp_path / "out")
    assert [p.name for p in written] == ["train.npz", "test.npz"]
    # 84 pixels
    assert data.load("arrays", "train", root=str(tmp_path / "out")).shape == (4 * 5 * 5,)
    draw(tmp_path / "in", ["test/traina/0.jpg"])
    with pytest.raises(InputError, match="class 'traina' is in train/ and in test/"):
        write_features(color(), Transform(), tmp_path / "in", tmp_path / "out")


def test_gray_images_are_encoded_by_an_encoder_of_one_channel(tmp_path: Path) -> None:
    draw(tmp_path / "in", ["a/0.png", "b/0.png"])
    write_features(learner(), TRANSFORM, tmp_path / "in", tmp_path / "out", size=28, channels=1)
    assert data.load("arrays", "test", root=str(tmp_path / "out")).shape == (4,)


def test_a_stopped_folder_goes_on(
    tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "in", [f"{c}/{i}.png" for c in "abc" for i in range(6)])
    with monkeypatch.context() as patch:
        counting = folder_features.encode  # type: ignore[attr-defined]

        def stopped(*args: object) -> torch.Tensor:
            if len(encoded) == 3:
                raise KeyboardInterrupt
            return counting(*args)  # type: ignore[arg-type]

        patch.setattr(folder_features, "encode", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_features(color(), Transform(), tmp_path / "in", tmp_path / "out", size=28)
    assert not (tmp_path / "out").exists()
    encoded.clear()
    write_features(color(), Transform(), tmp_path / "in", tmp_path / "out", size=28)
    assert encoded == [4, 4, 2]


def test_bad_folders_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing is not a folder"):
        write_features(color(), Transform(), tmp_path / "missing", tmp_path / "out")
    draw(tmp_path / "in", ["a/0.png", "b/0.png"])
    (tmp_path / "in/b/1.png").write_bytes(b"junk")
    with pytest.raises(
        InputError,
        match=r"in/b/1\.png is not a readable image.*replace or "
        r"remove it",
    ):
        write_features(color(), Transform(), tmp_path / "in", tmp_path / "out", size=28)
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "in" / name).write_bytes(b"junk")
    several = r"in/a/1\.png is not .*; 3 images cannot be read, the others are b/1\.png, b/2\.png$"
    with pytest.raises(InputError, match=several):
        # one image a block
        write_features(color(), Transform(), tmp_path / "in", tmp_path / "out", size=1024)
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / "in" / name).unlink()
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write .*out"):
        write_features(color(), Transform(), tmp_path / "in", tmp_path / "out", size=28)


class Options(Conv4):
    """An encoder whose answer hangs on an option of any kind."""

    def __init__(self, option: object) -> None:
        super().__init__(1, 4)
        self.option = option


def test_options_of_every_kind_are_part_of_the_key() -> None:
    def shifted(by: float) -> Callable[[float], float]:
        return lambda x: x + by

    class Config:
        def __init__(self, **options: object) -> None:
            self.__dict__.update(options)

    def key(option: object) -> str:
        torch.manual_seed(0)
        return str(encoder_digest(Options(option)).hexdigest())

    options = [
        [1, 2],
        [2, 1],
        [1, [2]],
        {"a": 1},
        {"a": 2},
        {"a": [1]},
        {1, 2},
        {1, 3},
        torch.tensor([1.0]),
        torch.tensor([2.0]),
        np.array([1, 2]),
        np.array([[1, 2]]),
        F.relu,
        F.gelu,
        nn.ReLU,
        shifted(1.0),
        shifted(2.0),
        functools.partial(F.leaky_relu, negative_slope=0.1),
        functools.partial(F.leaky_relu, negative_slope=0.2),
        Config(width=[1]),
        Config(width=[2]),
        [nn.Linear(1, 1)],
        torch.float32,
        torch.float64,
        None,
        3,
        (3,),
    ]
    keys = [key(o) for o in options]
    assert len(set(keys)) == len(keys)
    assert keys == [key(o) for o in options]
    cycle: list[object] = [1]
    around = Config(inside=cycle)
    cycle.append(around)
    assert key(around)


def test_code_and_hooks_of_a_users_encoder_are_part_of_the_key() -> None:
    def encoder(factor: int) -> nn.Module:
        torch.manual_seed(0)
        code = (
            f"class Net(nn.Linear):\n    def forward(self, x):\n        return {factor} * "
            f"super().forward(x)"
        )
        space: dict[str, Any] = {"nn": nn, "__name__": "notebook"}
        exec(code, space)
        return space["Net"](2, 2)

    assert encoder_digest(encoder(2)).digest() == encoder_digest(encoder(2)).digest()
    assert encoder_digest(encoder(2)).digest() != encoder_digest(encoder(3)).digest(), (
        "a cell that was edited"
    )
    hooked = encoder(2)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert encoder_digest(hooked).digest() != encoder_digest(encoder(2)).digest()


NOTEBOOK = """
import torch
from torch import nn
SCALE = {constant}
def shifted(x):
    return x + {function}
class Preprocessing:
    def __call__(self, x):
        return x * {called}
class Net(nn.Linear):
    power = {attribute}
    @staticmethod
    def squared(x):
        return {static} * x**2
    @property
    def offset(self):
        return {read}
    def forward(self, x):
        x = self.squared(SCALE * self.pre(shifted(x))) ** self.power
        return super().forward(x) + self.offset
def make():
    torch.manual_seed(0)
    net = Net(2, 2)
    net.pre = Preprocessing()
    return net
"""
EDITED = ("constant", "function", "called", "attribute", "static", "read")


def test_whatever_the_code_of_a_users_encoder_names_is_part_of_the_key() -> None:
    """A cell of a notebook, of which one number is edited."""

    def key(**changed: int) -> str:
        space: dict[str, Any] = {"__name__": "notebook"}
        exec(NOTEBOOK.format(**(dict.fromkeys(EDITED, 1) | changed)), space)
        return str(encoder_digest(space["make"]()).hexdigest())

    keys = [key(), *(key(**{name: 2}) for name in EDITED)]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_of_several_layers_in_a_list_is_part_of_the_key(which: int) -> None:
    """A list keeps layers from being registered; they are weights of the encoder all the same."""

    def key(weight: float, activation: type[nn.Module]) -> str:
        layers = [nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(3)]
        layers[which] = nn.Sequential(nn.Linear(2, 2), activation())
        for place, layer in enumerate(layers):
            for p in layer.parameters():
                nn.init.constant_(p, weight if place == which else 1.0)
        torch.manual_seed(0)
        return str(encoder_digest(Options(layers)).hexdigest())

    assert key(1.0, nn.ReLU) == key(1.0, nn.ReLU)
    assert len({key(1.0, nn.ReLU), key(2.0, nn.ReLU), key(1.0, nn.GELU)}) == 3


def test_all_numbers_of_a_tuple_of_tensors_are_part_of_the_key() -> None:
    """The text of a long tensor leaves out those in its middle."""

    def key(middle: float) -> str:
        torch.manual_seed(0)
        numbers = torch.zeros(5000)
        numbers[2500] = middle
        return str(encoder_digest(Options((numbers,))).hexdigest())

    assert key(1.0) == key(1.0) != key(2.0)


def test_encoders_of_plain_options_keep_their_key() -> None:
    """Features that were computed before are found again."""
    torch.manual_seed(0)
    net = Conv4(1, 4)
    for tensor in net.state_dict().values():
        tensor.fill_(1)
    assert (
        encoder_digest(net, (0.5,), (0.25,), "cpu", 4).hexdigest()
        == "500bffc5fa6ad03fff068e222d86d44e"
    )


def test_a_file_that_was_unreadable_once_is_read_again(tmp_path: Path, encoded: list[int]) -> None:
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    names = [f"{i}.png" for i in range(10)]
    good = (tmp_path / "5.png").read_bytes()
    whole = encode_files(learner(), TRANSFORM, tmp_path, names, 28, 1)
    status = (tmp_path / "5.png").stat()

    def put(data: bytes) -> None:  # as a disk that fails and comes back: the same size and time
        (tmp_path / "5.png").write_bytes(data)
        os.utime(tmp_path / "5.png", ns=(status.st_atime_ns, status.st_mtime_ns))

    put(bytes(len(good)))
    lost = encode_files(learner(), TRANSFORM, tmp_path, names, 28, 1, broken=True)
    assert np.flatnonzero(np.isnan(lost).any(1)).tolist() == [5]
    assert np.isnan(
        encode_files(learner(), TRANSFORM, tmp_path, names, 28, 1, broken=True)[5]
    ).all()
    put(good)
    encoded.clear()
    assert np.array_equal(
        encode_files(learner(), TRANSFORM, tmp_path, names, 28, 1, broken=True), whole
    )
    assert encoded == [4], "the block that lacked it"
    encoded.clear()
    assert np.array_equal(
        encode_files(learner(), TRANSFORM, tmp_path, names, 28, 1, broken=True), whole
    )
    assert encoded == [], "and it is kept"

"""A run as ONNX graphs: they answer as PyTorch does, the script beside them as `predict` does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import graphfsl as gf
from graphfsl.apply.export import graphs
from graphfsl.apply.export.export_run import export
from graphfsl.apply.export.graphs import HeadGraph, example_episode, session
from graphfsl.apply.predict import load
from graphfsl.core.saving import Training
from graphfsl.io.errors import InputError
from tests.support.command import Call, refused

SIZE = 16
NAMES = ("disc", "stripes", "frame")
# Runs a script in a process that finds the packages of one folder, and no others.
ALONE = """
import importlib.util, runpy, sys
sys.path.append(sys.argv[1])
for name in ("torch", "graphfsl", "onnx", "scipy"):
    assert importlib.util.find_spec(name) is None, name
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NEEDED = ("numpy", "PIL", "onnxruntime")


def saved(folder: Path, channels: int, ink: bool, head: Any = "protonet") -> Path:
    """A small learner in a folder, as `Learner.save` writes it."""
    torch.manual_seed(0)
    spec = {"encoder": {"name": "conv4", "width": 4}, "head": head}
    shape = (channels, SIZE, SIZE)
    learner = gf.build(spec, shape, 3)
    mean, std = [0.4] * channels, [0.3] * channels
    learner.training_data = Training(shape, mean, std, ("a", "b"), ink, 0)
    learner.save(folder)
    return folder


def drawing(kind: str, number: int) -> np.ndarray:
    """(20, 24, 3) bytes of one class, each a little otherwise."""
    rng = np.random.default_rng([number, *kind.encode()])
    y, x = np.mgrid[:20, :24]
    shapes = {
        "disc": (x - 12) ** 2 + (y - 9) ** 2 < 40,
        "stripes": (x // 3) % 2 == 0,
        "frame": (x < 4) | (y > 15),
    }
    picture = np.where(shapes[kind][..., None], [200, 90, 40], [30, 120, 230])
    return (picture + rng.integers(-25, 25, picture.shape)).clip(0, 255).astype(np.uint8)


def photographs(root: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Three files of each class, and queries of every kind that a camera or a program writes."""
    support: dict[str, list[Path]] = {}
    for name in NAMES:
        (root / name).mkdir(parents=True)
        support[name] = [root / name / f"{i}.png" for i in range(3)]
        for i, path in enumerate(support[name]):
            Image.fromarray(drawing(name, i)).save(path)
    queries = []

    def keep(image: Image.Image, name: str, **options: Any) -> None:
        queries.append(root / name)
        image.save(queries[-1], **options)

    for number, name in enumerate(NAMES, 5):
        photo = Image.fromarray(drawing(name, number))
        gray = np.asarray(photo.convert("L"))
        turned = Image.Exif()
        turned[0x0112] = 6
        see_through = photo.convert("RGBA")
        see_through.putalpha(Image.fromarray(np.linspace(0, 255, 480).reshape(20, 24).astype("u1")))
        keep(photo, f"{name}.jpg", quality=95)
        keep(photo, f"{name}_turned.jpg", exif=turned)
        keep(see_through, f"{name}_clear.png")
        keep(Image.fromarray(gray.astype(np.uint16) * 200 + 3000), f"{name}_deep.png")
        keep(photo.convert("LA"), f"{name}_gray.png")
        keep(photo.quantize(16), f"{name}_palette.gif", transparency=3)
        keep(photo.convert("1"), f"{name}_bits.bmp")
        keep(photo.convert("CMYK"), f"{name}_print.tif")
        keep(photo.convert("L"), f"{name}_turned.tif", exif=turned)
        deep_gray = Image.fromarray(gray.astype(np.uint16) * 200 + 3000)
        keep(deep_gray, f"{name}_deep_turned.tif", exif=turned)
        keep(deep_gray, f"{name}_deep_negative.tif", tiffinfo={262: 0})  # WhiteIsZero
    return support, queries


def alone(script: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The script in an environment that holds numpy, Pillow and onnxruntime alone.

    It is a folder of links to these packages, read without site-packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in NEEDED:
            found = importlib.util.find_spec(name)
            assert found is not None and found.origin is not None
            package = Path(found.origin).parent
            libraries = [package.parent / f"{part}.libs" for part in (name, "pillow")]
            for path in (package, *filter(Path.is_dir, libraries)):
                if not (link := Path(folder, path.name)).exists():
                    link.symlink_to(path)
        command = [sys.executable, "-I", "-S", "-c", ALONE, folder, str(script), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment into which pip has put numpy, Pillow and onnxruntime alone."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "numpy", "Pillow", "onnxruntime"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("pip finds no packages here")
    return python


@pytest.fixture(scope="module", params=[(3, False), (1, True)], ids=["photographs", "drawings"])
def exported(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A learner's folder, and that of its export."""
    root = tmp_path_factory.mktemp("export")
    run = saved(root / "run", *request.param)
    export(run, root / "device")
    return run, root / "device"


def test_the_graphs_answer_as_the_learner_for_any_number_of_images(
    exported: tuple[Path, Path],
) -> None:
    run, device = exported
    learner: Any = load(run).learner
    channels = json.loads((device / "model.json").read_text())["image"]["channels"]
    encoder, head = (session(str(device / f"{name}.onnx")) for name in ("encoder", "head"))
    for way, shot, queries in ((2, 1, 1), (6, 4, 5), (3, 2, 9)):
        n = way * shot + queries
        x = torch.randn(n, channels, SIZE, SIZE)
        z = encoder.run(None, {"images": x.numpy()})[0]
        w = torch.eye(way).repeat_interleave(shot, 0)
        inputs = {
            "support": z[: way * shot],
            "labels": w.numpy(),
            "mask": np.ones(way * shot, bool),
            "query": z[way * shot :],
        }
        p = head.run(None, inputs)[0]
        weights = torch.cat([w, torch.zeros(queries, way)])
        episode = gf.Episode(x[None], weights[None], way * shot, queries)
        with torch.no_grad():
            right = learner(episode)[0].softmax(-1)
        np.testing.assert_allclose(p, right.numpy(), atol=1e-4)


def test_an_image_of_another_size_is_refused_with_both_sizes(exported: tuple[Path, Path]) -> None:
    channels = json.loads((exported[1] / "model.json").read_text())["image"]["channels"]
    encoder = session(str(exported[1] / "encoder.onnx"))
    with pytest.raises(Exception, match=f"Got: {SIZE + 4} Expected: {SIZE}"):
        encoder.run(None, {"images": np.zeros((1, channels, SIZE + 4, SIZE), np.float32)})


def test_padding_of_the_support_changes_nothing(exported: tuple[Path, Path]) -> None:
    head = session(str(exported[1] / "head.onnx"))
    dim = json.loads((exported[1] / "model.json").read_text())["features"]
    episode = {k: v.numpy() for k, v in example_episode(3, 1, 4, dim).items()}
    padded = dict(episode)
    for name in ("support", "labels"):
        row = np.full((1, episode[name].shape[1]), 7.0 if name == "support" else 0.0, np.float32)
        padded[name] = np.concatenate([episode[name], row])
    padded["mask"] = np.append(episode["mask"], False)
    np.testing.assert_allclose(head.run(None, padded)[0], head.run(None, episode)[0], atol=1e-6)


def test_the_script_answers_as_predict_from_the_same_files_without_torch(
    exported: tuple[Path, Path], fresh_python: Path, tmp_path: Path
) -> None:
    run, device = exported
    support, queries = photographs(tmp_path)
    (device / "classes.npz").unlink(missing_ok=True)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(fresh_python), str(device / "classify.py"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=plain)

    for name, files in support.items():
        call("enrol", name, *files)
    done = call("classify", *queries)
    answers = load(run).predict(support, queries)
    lines = done.stdout.splitlines()
    for line, answer, path in zip(lines, answers, queries, strict=True):
        shown, label, each = line.split("\t")
        p = {name: float(value) for name, value in (word.split("=") for word in each.split())}
        assert (shown, label) == (str(path), answer.label)
        assert p == pytest.approx(answer.probabilities, abs=1e-3), path.name


def test_the_script_says_in_a_line_what_it_does_not_read(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    _, device = exported
    deep = tmp_path / "deep.png"
    write_deep_colours(deep)
    done = alone(device / "classify.py", "enrol", "x", deep)
    assert done.returncode == 1
    assert done.stderr == f"{deep} has colours of 16 bits; save it with 8\n"


def write_deep_colours(path: Path) -> None:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def imported(script: Path) -> Any:
    """The module device.py of an export."""
    spec = importlib.util.spec_from_file_location("device", script.with_name("device.py"))
    assert spec is not None and spec.loader is not None
    device = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(device)
    return device


def test_what_predict_does_not_read_the_script_does_not_read(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    run, script = exported[0], exported[1] / "classify.py"
    device, predictor, photo = imported(script), load(run), tmp_path / "photo.tif"
    beyond = [np.full((4, 4), value, np.float32) for value in (300, -0.5, np.nan)]
    for values in (*beyond, np.full((4, 4), 70_000, np.int32)):
        Image.fromarray(values).save(photo)
        with pytest.raises(InputError, match="has pixels from"):
            predictor.image(photo)
        with pytest.raises(SystemExit, match=r"photo.tif has pixels outside of 0 to (1|65535);"):
            device.features([str(photo)])


def test_many_photographs_are_encoded_a_few_at_once(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = copy_of(exported[1], tmp_path / "device")
    photo = tmp_path / "photo.png"
    Image.fromarray(drawing("disc", 0)).save(photo)
    device = imported(script)
    given: list[int] = []
    graph = device._graph("encoder")

    class Counting:
        def run(self, _: None, inputs: dict[str, np.ndarray]) -> Any:
            given.append(len(inputs["images"]))
            return graph.run(None, inputs)

    monkeypatch.setattr(device, "_graph", lambda _: Counting())
    assert len(device.features([str(photo)] * 40)) == 40
    assert given == [16, 16, 8]


def test_the_script_refuses_features_of_another_model(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    _, device = exported
    other = copy_of(device, tmp_path / "other").parent
    facts = json.loads((other / "model.json").read_text())
    z = np.zeros((1, facts["features"]), np.float32)
    np.savez(other / "classes.npz", features=z, names=np.array(["a"]), model=np.array("another"))
    photo = tmp_path / "photo.png"
    Image.fromarray(drawing("disc", 0)).save(photo)
    done = alone(other / "classify.py", "classify", photo)
    assert done.returncode == 1
    assert "holds features of another encoder; remove it and enrol again" in done.stderr
    (other / "model.json").write_text(json.dumps(facts | {"onnxruntime": [99, 0]}))
    done = alone(other / "classify.py", "classify", photo)
    assert done.returncode == 1 and done.stderr.startswith("onnxruntime [99, 0] or newer")


def copy_of(device: Path, to: Path, **image: Any) -> Path:
    """The files of an export in a folder of their own, with other facts of images."""
    to.mkdir()
    for name in ("encoder.onnx", "head.onnx", "classify.py", "device.py"):
        (to / name).write_bytes((device / name).read_bytes())
    facts = json.loads((device / "model.json").read_text())
    facts["image"] |= image
    (to / "model.json").write_text(json.dumps(facts))
    return to / "classify.py"


def test_the_script_needs_two_classes_and_bytes(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(drawing("disc", 0)).save(photo)
    script = copy_of(exported[1], tmp_path / "one")
    nothing = alone(script, "classify", photo)
    assert alone(script, "enrol", "disc", photo).returncode == 0
    single = alone(script, "classify", photo)
    enrolled = "{} class is enrolled; at least 2 are needed\n"
    assert [nothing.stderr, single.stderr] == [enrolled.format(0), enrolled.format(1)]

    wide = copy_of(exported[1], tmp_path / "wide", range=[0, 4095])
    refused = alone(wide, "enrol", "disc", photo)
    assert refused.stderr.startswith("this run reads images over a range of its own")
    assert not (wide.parent / "classes.npz").exists()
    codes = [done.returncode for done in (nothing, single, refused)]
    answers = [done.stdout for done in (nothing, single, refused)]
    assert (codes, answers) == ([1, 1, 1], ["", "", ""])


def test_the_script_says_in_a_line_which_photograph_it_cannot_read(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    script, photo = copy_of(exported[1], tmp_path / "device"), tmp_path / "photo.png"
    Image.fromarray(drawing("disc", 0)).save(photo)
    half = tmp_path / "half.png"
    half.write_bytes(photo.read_bytes()[:60])
    for words in (["classify", tmp_path / "none.png"], ["enrol", "disc", half], ["enrol", "disc"]):
        done = alone(script, *words)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        about = "no photograph" if len(words) == 2 and words[0] == "enrol" else "no image"
        assert about in done.stderr


def test_model_json_says_what_the_device_needs(exported: tuple[Path, Path]) -> None:
    run, device = exported
    facts = json.loads((device / "model.json").read_text())
    image, predictor = facts["image"], load(run)
    assert image["size"] == SIZE and image["ink"] == predictor.run.ink
    assert image["mean"] == pytest.approx([0.4] * image["channels"])
    assert facts["classes"] == ["a", "b"] and facts["precision"] == "fp32"
    assert facts["digest"] == predictor.run.experiment.digest()
    import onnx

    for name in ("encoder", "head"):
        model = onnx.load(device / facts[name])
        assert model.opset_import[0].version == facts["opset"]
        assert {p.key: p.value for p in model.metadata_props}["model"] == facts["model"]


# What is refused


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"head": "r2d2"}, "R2D2 solves linear equations"),
    ({"head": "protonet", "refine": "soft_kmeans"}, "it reads a pool of unlabeled images"),
    ({"head": "protonet", "refine": "laplacian_shot"}, "it is transductive"),
    ({"head": {"name": "gnn", "hidden": 8}}, "it is tied to one way"),
    ({"head": "protonet", "batch_norm": "support"}, "its BatchNorm policy is `support`"),
    ({"head": "linear", "adapt": "maml"}, "its inner loop changes the weights"),
]


@pytest.mark.parametrize(("spec", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_no_graph_holds_is_refused_with_the_reason(
    spec: dict[str, Any], why: str, tmp_path: Path
) -> None:
    learner = gf.build({"encoder": {"name": "conv4", "width": 4}, **spec}, (1, SIZE, SIZE), 3)
    assert why in graphs.why_not_exported(learner)
    learner.save(tmp_path / "run")
    with pytest.raises(InputError, match="has no head for devices") as error:
        export(tmp_path / "run", tmp_path / "device")
    assert why in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "device").exists()


def test_an_encoder_alone_is_exported_where_the_head_cannot_be(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 1, ink=False, head="r2d2")
    export(run, tmp_path / "device", encoder_only=True)
    names = sorted(path.name for path in (tmp_path / "device").iterdir())
    assert names == ["encoder.onnx", "model.json"]
    assert "head" not in json.loads((tmp_path / "device" / "model.json").read_text())


def test_mistakes_on_the_command_line_are_one_line(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved(tmp_path / "run", 1, ink=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    device = tmp_path / "device"
    refused(tmp_path, call, "export", run, "-o", tmp_path / "full", says="is there already")
    refused(tmp_path, call, "export", run, "-o", device, "--opset", 9, says="writes opset 18 to 20")
    refused(tmp_path, call, "export", tmp_path / "none", "-o", device, says="not found")
    gf.build({"head": "protonet"}, (5,), 3).save(tmp_path / "features")
    refused(tmp_path, call, "export", tmp_path / "features", says="was trained on features")
    runtime = __import__("onnxruntime")
    monkeypatch.setattr(runtime, "__version__", "1.10.0")
    refused(tmp_path, call, "export", run, "-o", device, says="onnxruntime 1.10.0 is too old")
    find: Callable[[str], Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    refused(tmp_path, call, "export", run, "-o", device, says="pip install graphfsl[export]")


def test_a_graph_that_answers_otherwise_is_not_given() -> None:
    class Forgets(torch.nn.Module):
        """Holds the number of classes that it was traced with."""

        def forward(self, **episode: torch.Tensor) -> torch.Tensor:
            return HeadGraph(gf.build({"head": "protonet"}, (6,), 3))(**episode) / 2

    learner: Any = gf.build({"head": "protonet"}, (6,), 3).eval()
    model = graphs.head_graph(learner, 6)
    with pytest.raises(InputError, match="answers otherwise than PyTorch on support"):
        graphs._compare(Forgets(), model, [example_episode(2, 1, 1, 6)], "it")

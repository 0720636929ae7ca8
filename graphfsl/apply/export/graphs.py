"""Encoder and head of a pipeline as ONNX graphs, each compared with PyTorch before it is given."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError, require

OPSET = 20  # the version of ONNX's operators that graphs are written in
OLDEST_OPSET = 18  # that PyTorch's exporter writes
OLDEST_RUNTIME = (1, 17)  # of onnxruntime, the first that runs opset 20
TOLERANCE = 1e-4  # between ONNX and PyTorch: of probabilities, and of features as a share
TRACED = (4, 3, 6)  # way, shots and queries of the episode that a head is traced on
COMPARED = ((2, 1, 1), (5, 2, 7), (7, 5, 3))  # of those on which it is compared
# the axes of an episode that are free: of support nodes, classes and queries
FREE_EPISODE = {
    "support": {0: Dim.DYNAMIC},
    "labels": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
    "mask": {0: Dim.DYNAMIC},
    "query": {0: Dim.DYNAMIC},
}
SHOWN = 200  # letters of another library's reason


class EncoderGraph(nn.Module):
    """What encoder.onnx holds: normalised images (n, C, H, W) -> features (n, d).

    They are the features that `graphfsl.loops.encode` gives: maps are read out to vectors, or
    flattened where a part of the pipeline reads maps.

    Args:
        pipeline: whose encoder it is.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, d) of images (n, C, H, W)."""
        z = self.pipeline.encoder(images)
        return z.flatten(1) if self.pipeline.wants_maps else self.pipeline.readout(z)


class HeadGraph(nn.Module):
    """What head.onnx holds: one episode of features -> probabilities of its queries.

    Args:
        learner: of features.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, support: Tensor, labels: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """Probabilities (q, C) of the queries.

        Args:
            support: (k, d) features.
            labels: (k, C) label weights of the support.
            mask: (k,) bool, false = padding.
            query: (q, d) features.
        """
        k, q = support.shape[0], query.shape[0]
        x = torch.cat([support, query])
        w = torch.cat([labels, labels.new_zeros(q, labels.shape[1])])
        real = torch.cat([mask, mask.new_ones(q)])
        episode = Episode(x[None], w[None], k, q, real[None], relabeled=False)
        scores: Tensor = self.learner(episode)
        return scores[0].softmax(-1)


def check_packages(opset: int = OPSET) -> None:
    """Refuse to export where a package is missing or too old, or the opset is.

    Raises:
        InputError: names it.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"export needs the package {name}: pip install graphfsl[export]")
    require(
        OLDEST_OPSET <= opset <= OPSET,
        f"--opset {opset}: PyTorch's exporter writes opset {OLDEST_OPSET} to {OPSET}; "
        f"{OPSET} needs onnxruntime {_dotted(OLDEST_RUNTIME)} or newer on the device",
    )
    import onnxruntime

    found = onnxruntime.__version__
    require(
        tuple(map(int, found.split(".")[:2])) >= OLDEST_RUNTIME,
        f"onnxruntime {found} is too old; pip install 'onnxruntime>={_dotted(OLDEST_RUNTIME)}'",
    )


def why_not_exported(learner: Learner) -> str:
    """Why no head.onnx can hold what a learner does behind its encoder; empty where one can.

    Parts say so themselves (`Part.cannot_export`).
    """
    if not isinstance(learner, Pipeline):
        if learner.adapts:
            return "its inner loop changes the weights for every support"
        return f"{type(learner).__name__} is no single pipeline of encoder and head"
    if learner.answers != "classes":
        return "it answers with values, not with classes"
    if learner.asks:
        return "it asks for labels"
    if learner.way is not None or learner.shots is not None:
        tied = "shots" if learner.way is None else "way"
        return f"it is tied to one {tied}, and a graph for devices takes any"
    if learner.transductive:
        return "it is transductive: an answer depends on the other queries"
    if learner.uses_unlabeled:
        return "it reads a pool of unlabeled images, and a device has none"
    for part in learner.parts:
        if part.cannot_export:
            return f"{type(part).__name__} {part.cannot_export}"
    if learner.image_parts:
        return f"{type(learner.image_parts[0]).__name__} generates images before they are encoded"
    if learner.batch_norm != "running":
        return (
            f"its BatchNorm policy is `{learner.batch_norm}`, by which an image cannot be encoded "
            "without its episode"
        )
    return ""


def encoder_graph(pipeline: Pipeline, shape: Sequence[int], opset: int = OPSET) -> bytes:
    """The encoder of a pipeline as an ONNX model, images (n, C, H, W) -> features (n, d).

    Any number of images can be given, of this one size.

    Args:
        pipeline: in evaluation mode.
        shape: (C, H, W) of an image.
        opset: the version of ONNX's operators.

    Raises:
        InputError: where it does not convert, or answers differently.
    """
    graph = EncoderGraph(pipeline).eval()
    images = _normal((2, *shape), 0)
    what = f"the encoder {type(pipeline.encoder).__name__}"
    model = converted(graph, {"images": images}, {"images": {0: Dim.DYNAMIC}}, opset, what)
    _compare(graph, model, [{"images": _normal((n, *shape), n)} for n in (1, 3)], what)
    return model


def head_graph(learner: Learner, dim: int, opset: int = OPSET) -> bytes:
    """What a learner does behind its encoder as an ONNX model: one episode -> probabilities.

    Inputs are those of `HeadGraph`; way, shots and the number of queries are free.

    Args:
        learner: of features, in evaluation mode.
        dim: d, the length of a feature.
        opset: the version of ONNX's operators.

    Raises:
        InputError: where it does not convert, or answers differently on episodes of other way,
            shot and queries than it was traced on.
    """
    graph = HeadGraph(learner).eval()
    what = "this learner"
    model = converted(graph, example_episode(*TRACED, dim), FREE_EPISODE, opset, what)
    _compare(graph, model, [example_episode(*size, dim) for size in COMPARED], what)
    return model


def example_episode(way: int, shot: int, queries: int, dim: int) -> dict[str, Tensor]:
    """The inputs of head.onnx for random features around a mean of each class.

    The last support node is padding where a class has several.
    """
    means = _normal((way, dim), way).abs()
    y = torch.arange(way).repeat_interleave(shot)
    support = means[y] + 0.5 * _normal((len(y), dim), 1).abs()
    asked = torch.arange(queries) % way
    query = means[asked] + 0.5 * _normal((queries, dim), 2).abs()
    labels = nn.functional.one_hot(y, way).float()
    mask = torch.ones(len(y), dtype=torch.bool)
    if shot > 1:
        mask[-1] = False
        labels[-1] = 0
    return {"support": support, "labels": labels, "mask": mask, "query": query}


def with_facts(model: bytes, facts: Mapping[str, str]) -> bytes:
    """An ONNX model with facts in its metadata.

    Args:
        model: its bytes.
        facts: key -> value.
    """
    import onnx

    graph = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(graph, dict(facts))
    told: bytes = graph.SerializeToString()
    return told


def session(model: bytes | str, threads: int | None = None) -> Any:
    """An onnxruntime session of a model on the CPU.

    Args:
        model: its bytes, or the path of its file.
        threads: of a call; None leaves it to onnxruntime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def converted(
    graph: nn.Module,
    example: Mapping[str, Tensor],
    free: Mapping[str, Mapping[int, Any]],
    opset: int = OPSET,
    what: str = "this module",
) -> bytes:
    """The ONNX model of a module, traced on an example.

    Args:
        graph: the module, called with keywords.
        example: name of an input -> what it is traced on.
        free: name of an input -> its axes that may be of any length.
        opset: the version of ONNX's operators.
        what: what the module is called in an error.

    Raises:
        InputError: where it does not convert.
    """
    level = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                kwargs=dict(example),
                dynamic_shapes=dict(free),
                input_names=list(example),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # whatever a tracer meets in code that it was not made for
        raise InputError(f"{what} does not export: {_reason(error)}") from None
    finally:
        logging.disable(level)
    return model


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:SHOWN]


def _compare(
    graph: nn.Module, model: bytes, examples: Sequence[Mapping[str, Tensor]], what: str
) -> None:
    """InputError where onnxruntime answers otherwise than PyTorch."""
    try:
        runs = session(model)
        answers = [
            runs.run(None, {name: t.numpy() for name, t in example.items()})[0]
            for example in examples
        ]
    except Exception as error:  # onnxruntime has a class of its own for each mistake
        raise InputError(f"{what} does not export: onnxruntime says {_reason(error)}") from None
    for example, found in zip(examples, answers, strict=True):
        with torch.no_grad():
            right = graph(**example).numpy()
        scale = max(1.0, float(np.abs(right).max(initial=0)))
        same = found.shape == right.shape and np.abs(found - right).max() <= TOLERANCE * scale
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in example.items())
        require(
            same,
            f"{what} does not export: its graph answers otherwise than PyTorch on {shapes}",
        )


def _normal(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))

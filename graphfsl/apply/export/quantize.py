"""An encoder's graph in 8-bit integers, and what that costs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphfsl.apply.export.graphs import session
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.pretrainer import NearestMeans
from graphfsl.data import Split, Transform
from graphfsl.experiment.run import Run
from graphfsl.functional.comparison import paired_difference
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.loops.encode import encode_split
from graphfsl.loops.evaluation import evaluate

KINDS = ("int8",)
CALIBRATED_ON = 256  # base images, spread over all classes
EPISODES = 600  # that the cost is measured on
DEAR = 1.0  # points of accuracy, above which the command warns
AT_ONCE = 64  # images of a call


@dataclass(frozen=True)
class Cost:
    """What integers cost: accuracies in percent, of the same episodes.

    Attributes:
        before: of the graph in floats.
        after: of the graph in integers.
        lost: their difference.
        within: half of its 95% interval.
        where: the episodes, in words.
    """

    before: float
    after: float
    lost: float
    within: float
    where: str

    def __str__(self) -> str:
        dear = "; that is more than a point" if self.lost > DEAR else ""
        return (
            f"int8 costs {self.lost:.2f} ± {self.within:.2f} points of accuracy: {self.before:.2f} "
            f"-> {self.after:.2f} in {self.where}{dear}"
        )


def check_kind(kind: str | None) -> None:
    """Refuse a kind of numbers that there is not.

    Raises:
        InputError: names those that there are.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("--quantize", kind, KINDS)


def quantized(model: bytes, base: Split, transform: Transform) -> bytes:
    """An encoder's graph with weights and activations in 8 bits.

    Scales are static: of weights per channel, of activations from the range that they have on
    CALIBRATED_ON images of base classes. Weights use 7 bits of the 8, as processors without VNNI
    would overflow.

    Args:
        model: the graph in floats.
        base: the split of base classes.
        transform: the normalisation of images.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.blocks = _calibration(base, transform)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.blocks, None)

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
            before.write_bytes(model)
            quantize_static(
                before,
                after,
                Images(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
            )
            return after.read_bytes()
    finally:
        logging.disable(level)


def _calibration(base: Split, transform: Transform) -> Iterator[dict[str, np.ndarray]]:
    """Images for the ranges, in blocks."""
    ids = torch.linspace(0, len(base.x) - 1, min(CALIBRATED_ON, len(base.x))).long()
    for block in ids.split(AT_ONCE):
        yield {"images": transform.plain()(base.gather(block)).numpy()}


def cost(run: Run, pipeline: Pipeline, model: bytes) -> Cost:
    """What an encoder in integers costs on episodes of classes that it was not calibrated on.

    They are of the validation classes, or of the base classes where those are too few. The run's
    own head answers or, where an inner loop adapts one, the nearest class mean.

    Args:
        run: whose task is measured.
        pipeline: in floats.
        model: the encoder's graph in integers.
    """
    split, task = _asked(run), run.experiment.task
    learner = pipeline.on_features() if run.learner is pipeline else Pipeline(head=NearestMeans())
    learner = learner.eval()
    numbers = (EPISODES, run.experiment.evaluation.seed)
    features = encode_split(pipeline, split, run.transform)
    before = evaluate(learner, features, task, *numbers)
    integers = Split(_encoded(model, split, run.transform), split.y, split.classes, split.name)
    after = evaluate(learner, integers, task, *numbers)
    each = [torch.as_tensor(result.accuracies, dtype=torch.float64) for result in (before, after)]
    lost, within = paired_difference(*each)
    where = f"{EPISODES} episodes of {split.name}, {task.title}"
    floats, quantized = (100 * float(values.mean()) for values in each)
    return Cost(floats, quantized, 100 * float(lost), 100 * float(within), where)


def _asked(run: Run) -> Split:
    """The split that the cost is measured on."""
    source = run.experiment.data
    if source.selects:
        split = source.split("val")
        try:
            run.experiment.task.check(split)
            return split
        except InputError:  # too few classes
            pass
    return source.base_split()


def _encoded(model: bytes, split: Split, transform: Transform) -> torch.Tensor:
    """Features (N, d) of a split's images by a graph."""
    encoder: Any = session(model)
    plain = transform.plain()
    blocks = [
        torch.from_numpy(encoder.run(None, {"images": plain(x).numpy()})[0])
        for x in split.blocks(AT_ONCE)
    ]
    z = torch.cat(blocks)
    require(bool(z.isfinite().all()), "the encoder in int8 made features that are not finite")
    return z

"""An encoder in 8-bit integers: smaller, nearly the same features, and its cost is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import graphfsl as gf
from graphfsl.apply.export import quantize
from graphfsl.apply.export.graphs import encoder_graph, session
from graphfsl.data import Split, Transform
from graphfsl.data.tasks.classes import Setting
from graphfsl.io.errors import InputError
from graphfsl.loops.encode import encode
from tests.support.command import Call, refused

SHAPE = (1, 16, 16)


def world(name: str, seed: int) -> Split:
    """Images around a pattern for each of six classes."""
    rng = np.random.default_rng(seed)
    pattern = rng.uniform(0, 255, (6, *SHAPE))
    labels = np.arange(6).repeat(20)
    x = pattern[labels] + rng.normal(0, 60, (120, *SHAPE))
    images = torch.from_numpy(x.clip(0, 255).astype(np.uint8))
    return Split(images, torch.from_numpy(labels), tuple("abcdef"), f"patterns/{name}")


@pytest.fixture(scope="module")
def made() -> tuple[Any, Split, Transform, bytes, bytes]:
    """A pipeline, its base split and normalisation, and its encoder in floats and in integers."""
    torch.manual_seed(0)
    spec = {"encoder": {"name": "conv4", "width": 32}, "head": "protonet"}
    pipeline: Any = gf.build(spec, SHAPE, 3).eval()
    base, transform = world("train", 0), Transform([0.5], [0.3])
    floats = encoder_graph(pipeline, SHAPE)
    return pipeline, base, transform, floats, quantize.quantized(floats, base, transform)


def asked(made: Any, val: Split) -> Any:
    """A run as far as its cost is asked."""
    pipeline, base, transform, *_ = made
    source = SimpleNamespace(selects=True, split=lambda _: val, base_split=lambda: base)
    evaluation = SimpleNamespace(seed=0)
    task = Setting(way=3, shot=1, query=3)
    experiment = SimpleNamespace(data=source, task=task, evaluation=evaluation)
    return SimpleNamespace(learner=pipeline, transform=transform, experiment=experiment)


def test_integers_are_smaller_and_near(made: Any) -> None:
    pipeline, _, transform, floats, integers = made
    assert len(integers) < 0.6 * len(floats)
    x = world("val", 1).x
    z = encode(pipeline, x, transform, "cpu").numpy()
    found = session(integers).run(None, {"images": transform(x).numpy()})[0]
    error = np.abs(found - z).mean() / np.abs(z).mean()
    assert 0 < error < 0.1


def test_the_cost_is_the_paired_difference_on_validation_classes(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "EPISODES", 30)
    pipeline, integers = made[0], made[-1]
    found = quantize.cost(asked(made, world("val", 1)), pipeline, integers)
    assert found.lost == pytest.approx(found.before - found.after)
    assert found.where == "30 episodes of patterns/val, 3-way 1-shot"
    assert abs(found.lost) < 10 and found.before > 50


def test_a_graph_that_forgets_costs_much_and_the_line_says_so(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "EPISODES", 30)
    pipeline, nothing = made[0], torch.zeros(120, 32)
    monkeypatch.setattr(quantize, "_encoded", lambda *_: nothing)
    found = quantize.cost(asked(made, world("val", 1)), pipeline, b"")
    assert found.lost > 20 and "that is more than a point" in str(found)


def test_of_too_few_validation_classes_base_classes_take_the_place(made: Any) -> None:
    val = world("val", 1).subset([0, 1], "patterns/val")
    assert quantize._asked(asked(made, val)).name == "patterns/train"


def test_an_unknown_kind_and_a_run_without_data_are_refused(tmp_path: Path, call: Call) -> None:
    with pytest.raises(InputError, match="unknown --quantize 'int4'"):
        quantize.check_kind("int4")
    spec = {"encoder": {"name": "conv4", "width": 4}, "head": "protonet"}
    gf.build(spec, SHAPE, 3).save(tmp_path / "run")
    refused(
        tmp_path, call, "export", tmp_path / "run", "-o", tmp_path / "device", "--quantize",
        "int8", says="saved without a data set",
    )  # fmt: skip

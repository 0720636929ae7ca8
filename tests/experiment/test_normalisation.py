"""By what images are normalised: the encoder's numbers, those of `data`, or of the base images."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import graphfsl as gf
from graphfsl.core.learner import Learner
from graphfsl.data import Split
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.run import normalised

SHAPE = (3, 16, 16)
OWN = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
OTHER = {"mean": [0.1, 0.2, 0.3], "std": [0.25, 0.25, 0.25]}


def by(numbers: dict[str, Any]) -> Experiment:
    return Experiment.of({"data": {"name": "glyphs", **numbers}, "learner": {"head": "protonet"}})


def learner(own: bool) -> Learner:
    """One whose encoder says how its images were normalised, or does not."""
    model: Any = gf.build({"encoder": {"name": "conv4", "width": 4}, "head": "protonet"}, SHAPE, 2)
    if own:
        model.encoder.mean, model.encoder.std = OWN["mean"], OWN["std"]
    net: Learner = model
    return net


@pytest.fixture
def white() -> Split:
    """Images of which every byte is 255."""
    x = torch.full((4, *SHAPE), 255, dtype=torch.uint8)
    return Split(x, torch.tensor([0, 0, 1, 1]), ("a", "b"), "white/train")


def test_the_encoders_own_goes_before_that_of_the_images(white: Split) -> None:
    assert normalised(by({}), learner(own=True), white).data.transform.mean == OWN["mean"]
    found = normalised(by({}), learner(own=False), white).data.transform.mean
    assert found == [1.0, 1.0, 1.0]


def test_another_than_the_encoders_own_is_told(white: Split) -> None:
    with pytest.warns(UserWarning, match=r"pretrained with mean=\[0\.5.*data\.mean=null"):
        found = normalised(by(OTHER), learner(own=True), white)
    assert found.data.transform.mean == OTHER["mean"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normalised(by(OWN), learner(own=True), white)
        normalised(by(OTHER), learner(own=False), white)

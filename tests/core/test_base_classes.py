"""What parts that learn from base classes share."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.base_classes import check_base
from graphfsl.experiment.builder import build
from graphfsl.io.errors import InputError
from graphfsl.testing import DIM
from tests.support.base_classes import base_features


def test_base_features_that_teach_nothing_are_refused() -> None:
    x, y, _ = base_features(classes=2)
    with pytest.raises(InputError, match="length 5, but base features have 6"):
        check_base(x, y, 5, 1, "this")
    with pytest.raises(InputError, match="needs 3 base classes or more, but there are 2"):
        check_base(x, y, DIM, 3, "this")
    x[4, 1] = float("nan")
    with pytest.raises(InputError, match="1 of 80 base features hold NaN or infinity"):
        check_base(x, y, DIM, 1, "this")


@pytest.mark.parametrize(
    "part",
    [
        {"name": "prototype_vae", "base_steps": 1},
        {"name": "f_clswgan", "steps": 1},
        {"name": "feature_diffusion", "steps": 1},
    ],
    ids=lambda part: part["name"],
)
def test_classes_without_enough_other_samples_are_refused_before_anything_is_trained(
    part: dict[str, object],
) -> None:
    net = build({"head": "protonet", "augment": {**part, "others": 3}}, (DIM,), 5)
    for each, reason in ((3, "others 3 needs 4 samples .* has 3; lower it to 2"), (1, "1 sample;")):
        labels = torch.arange(4).repeat_interleave(each)
        with pytest.raises(InputError, match=reason):
            net.check_base_labels(labels)
        with pytest.raises(InputError, match=reason):
            net.fit_base(torch.randn(len(labels), DIM), labels)
    net.check_base_labels(torch.arange(4).repeat_interleave(4))


@pytest.mark.parametrize("name", ["gaussian", "distribution_calibration", "wccn", "nuisance"])
def test_classes_of_one_sample_show_no_spread(name: str) -> None:
    net = build({"head": "protonet", "augment": name}, (DIM,), 5)
    with pytest.raises(InputError, match=f"{name} learns how the samples of a class differ"):
        net.check_base_labels(torch.arange(6))

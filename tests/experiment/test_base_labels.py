"""What a part cannot learn from base classes is refused before anything is trained or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from tests.support.refusal import refused

NONE_OF_THEM = {"name": "class_graph", "graph": [["beaver", "mammal"]]}
ONE_OF_THEM = {"name": "class_graph", "graph": [["0", "digit"]]}
NEAREST = {"name": "calibrate", "form": "nearest", "neighbors": 5}


def experiment(folder: Path, **parts: Any) -> Experiment:
    """Four classes 0 … 3 of six samples, of which an encoder would be trained."""
    for split in ("train", "val", "test"):
        x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
        np.savez(folder / f"{split}.npz", features=x, labels=np.arange(24) % 4)
    return Experiment.of(
        {
            "data": {"name": "arrays", "root": str(folder)},
            "learner": {"encoder": {"name": "mlp", "widths": [4]}, "head": "protonet", **parts},
            "episode": {"way": 2, "shot": 1, "query": 1, "unlabeled": 1},
            "trainer": {"steps": 2, "device": "cpu"},
            "evaluation": {"episodes": 2},
        }
    )


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"augment": NONE_OF_THEM}, "none of the 4 base classes is in the class graph"),
        ({"augment": {"name": "distribution_calibration", "neighbors": 5}}, "needs 5 base classes"),
        ({"augment": NEAREST}, "calibrate needs 5 base classes"),
        ({"refine": {"name": "plcm", "shot": 6}}, "plcm.shot=6 leaves a base class without"),
    ],
)
def test_it_is_refused_before_the_training(
    tmp_path: Path, parts: dict[str, Any], says: str
) -> None:
    with refused(says):
        runs.prepare(experiment(tmp_path, **parts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_of_the_graph_is_enough(tmp_path: Path) -> None:
    run, base = runs.prepare(experiment(tmp_path, augment=ONE_OF_THEM), tmp_path / "run")
    assert len(runs.train(run, base).learner.innermost.augment[0].means) == 2

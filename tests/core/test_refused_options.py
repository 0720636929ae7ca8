"""Options and files that mean nothing are refused in one line, when a learner is built or a data
set is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphfsl.data.images import Files, read_images
from graphfsl.experiment.builder import build
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.relationnet import RelationNet


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            {"head": "linear", "adapt": {"name": "maml", "lr": -1}},
            "maml.lr must be above 0, not -1",
        ),
        ({"head": "linear", "adapt": {"name": "maml", "lr": 0}}, "maml.lr must be above 0, not 0"),
        (
            {"head": "linear", "adapt": {"name": "maml", "task_chunk": 0}},
            "task_chunk must be 1 or more",
        ),
        ({"head": {"name": "protonet", "distance": "cosine", "scale": -1}}, "above 0, not -1"),
        ({"head": {"name": "meta_baseline", "scale": 0}}, "above 0, not 0"),
        ({"head": {"name": "relay", "label_dropout": -1}}, "label_dropout in"),
        ({"head": {"name": "dpgn", "shot": 0}}, "dpgn.shot must be 1 or more"),
        ({"head": {"name": "egnn", "hidden": -1}}, "cannot be built with"),
        ({"head": {"name": "gnn", "hidden": 0}}, "a layer of width 0"),
        (
            {"head": "protonet", "graph": {"name": "message_passing", "layers": -1}},
            "layers must be 0 or more",
        ),
        (
            {"head": "protonet", "augment": {"name": "prototype_vae", "weight": -1}},
            "weight must be 0 or more",
        ),
        ({"head": "relationnet"}, "reads feature maps, not vectors"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_option_without_a_meaning_is_refused_when_the_learner_is_built(
    section: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as error:
        build(section, (8,), 3)
    assert "\n" not in str(error.value)


def test_relationnet_refuses_vectors_of_pixels_and_of_users() -> None:
    with pytest.raises(InputError, match="reads feature maps, not vectors"):
        build({"encoder": "pixels", "head": "relationnet"}, (1, 8, 8), 3)
    with pytest.raises(InputError, match="reads feature maps"):
        RelationNet((8,))


@pytest.mark.parametrize("count", [1, 3, 14])
def test_all_broken_images_are_named_at_once(tmp_path: Path, count: int) -> None:
    for i in range(count + 1):
        (tmp_path / f"b{i:02}.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "b00.png")
    files = Files(tmp_path)
    with pytest.raises(InputError, match=r"b01\.png is not a readable image") as error:
        read_images(files, files.names, 4, 1, "broken")
    said = str(error.value)
    assert "\n" not in said and said.count("replace or remove") == 1 and "b00" not in said
    assert all(f"b{i:02}.png" in said for i in range(1, min(count, 10) + 1))
    assert (f"{count} images cannot be read" in said) == (count > 1) and ("…" in said) == (
        count > 10
    )

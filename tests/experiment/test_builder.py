"""Options that mean nothing are refused in one line, when a learner is built."""

from __future__ import annotations

from typing import Any

import pytest

from graphfsl.experiment.builder import build
from graphfsl.io.errors import InputError


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


def test_a_head_of_maps_is_refused_where_the_encoder_gives_vectors() -> None:
    section = {"encoder": "conv4_r2d2", "head": "relationnet"}
    with pytest.raises(InputError, match="reads feature maps, not vectors"):
        build(section, (3, 32, 32), 5, device="meta")
    # maps of one place are maps
    build({**section, "encoder": "conv4"}, (1, 28, 28), 5, device="meta")


def test_a_check_of_one_learner_leaves_those_of_others_alone() -> None:
    """CAVIA puts a context into the encoder, which all checks of an encoder share."""
    section = {"encoder": {"name": "conv4", "width": 7}, "head": "linear"}

    def names(adapt: str) -> set[str]:
        learner = build({**section, "adapt": adapt}, (1, 28, 28), 5, device="meta")
        return set(learner.innermost.state_dict())

    before = names("maml")
    assert names("cavia") != before
    assert names("maml") == before


def test_a_learner_knows_its_recipe_wherever_it_is_built() -> None:
    section = {"head": "protonet"}
    default, named = build(section, (8,), 3), build(section, (8,), 3, device="cpu")
    assert default.recipe is not None and named.recipe == default.recipe
    assert build(section, (8,), 3, device="meta").recipe is None  # it only checks

"""Every method that graphfsl has, as (slot, name), and the episodes that it answers."""

from __future__ import annotations

from typing import Any

from graphfsl.core import registry
from graphfsl.testing import Method

METHODS = sorted(registry.find())


def answers_values(slot: str, name: str) -> bool:
    """Whether a method answers with real values, so that episodes of classes are not for it."""
    return Method(slot, registry.get(slot, name)).of_values


def episodes_of(slot: str, name: str, **options: Any) -> tuple[Any, Any]:
    """Episodes of the kind that a method answers, and their target."""
    return Method(slot, registry.get(slot, name)).episodes(**options)


# Options with which methods take less time, where it is enough that they work.
QUICK: dict[str, dict[str, Any]] = {
    "dpgn": {"generations": 2, "hidden": 16},
    "gnn": {"hidden": 32},
    "egnn": {"hidden": 16, "layers": 2},
    "alpha_tim": {"steps": 3, "lr": 0.1},
    "ici": {"stages": 2},
    "ilpc": {"stages": 3, "epochs": 5},
    "pt_map": {"steps": 2},
    "plcm": {"steps": 2},
    "tim": {"steps": 3},
    "entropy_maml": {"steps": 2},
    "fine_tuning": {"steps": 5},
    "flexmatch": {"steps": 4},
    "imaml": {"steps": 6},
    "lstm_meta_learner": {"steps": 5},
    "transmatch": {"steps": 4},
    "tsa": {"steps": 4},
}

"""The contract that methods are written against: episodes, parts and their slots, adaptation.

`from graphfsl.core import Episode, Head` is what a method's author writes. Names are imported when
first used, so that importing one module of this room imports no other that it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphfsl.io.lazy_names import lazy_names

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` imports what is used
    from graphfsl.core.adapt import Adapt
    from graphfsl.core.batchnorm import BatchNorm
    from graphfsl.core.ensemble import Ensemble
    from graphfsl.core.episode import Episode, Target, ValueTarget, stack
    from graphfsl.core.learner import (
        Acquire,
        Augment,
        Graph,
        Head,
        Learner,
        Novelty,
        Objective,
        Part,
        Refine,
    )
    from graphfsl.core.objectives import support_cross_entropy
    from graphfsl.core.pipeline import Pipeline
    from graphfsl.core.pretrainer import Pretrainer
    from graphfsl.core.rules import Adam, GradientDescent, Rule
    from graphfsl.io.errors import InputError

_HOME = {
    "Acquire": "core.learner",
    "Adam": "core.rules",
    "Adapt": "core.adapt",
    "Augment": "core.learner",
    "BatchNorm": "core.batchnorm",
    "Ensemble": "core.ensemble",
    "Episode": "core.episode",
    "GradientDescent": "core.rules",
    "Graph": "core.learner",
    "Head": "core.learner",
    "InputError": "io.errors",
    "Learner": "core.learner",
    "Novelty": "core.learner",
    "Objective": "core.learner",
    "Part": "core.learner",
    "Pipeline": "core.pipeline",
    "Pretrainer": "core.pretrainer",
    "Refine": "core.learner",
    "Rule": "core.rules",
    "Target": "core.episode",
    "ValueTarget": "core.episode",
    "stack": "core.episode",
    "support_cross_entropy": "core.objectives",
}
__all__ = [
    "Acquire",
    "Adam",
    "Adapt",
    "Augment",
    "BatchNorm",
    "Ensemble",
    "Episode",
    "GradientDescent",
    "Graph",
    "Head",
    "InputError",
    "Learner",
    "Novelty",
    "Objective",
    "Part",
    "Pipeline",
    "Pretrainer",
    "Refine",
    "Rule",
    "Target",
    "ValueTarget",
    "stack",
    "support_cross_entropy",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)

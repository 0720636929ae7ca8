"""graphfsl: graph and semi-supervised few-shot learning.

Names are imported when first used: starting is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphfsl.io.lazy_names import lazy_names

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` imports what is used
    from graphfsl.apply.estimator import FewShotClassifier
    from graphfsl.apply.predict import load
    from graphfsl.core.adapt import Adapt
    from graphfsl.core.episode import Episode, Target
    from graphfsl.core.learner import (
        Acquire,
        Augment,
        Graph,
        Head,
        Learner,
        Objective,
        Part,
        Refine,
    )
    from graphfsl.core.outputs import Outputs
    from graphfsl.core.pipeline import Pipeline
    from graphfsl.core.registry import get
    from graphfsl.core.rules import GradientDescent, Rule
    from graphfsl.data import Episodes, Setting, Split, Transform
    from graphfsl.data import load as load_data
    from graphfsl.experiment.builder import build
    from graphfsl.io.errors import InputError
    from graphfsl.loops.evaluation import evaluate
    from graphfsl.loops.trainer import Trainer
    from graphfsl.nn import Conv4

__version__ = "0.2.0"

_HOME = {
    "Acquire": "core.learner",
    "Adapt": "core.adapt",
    "Augment": "core.learner",
    "Conv4": "nn",
    "Episode": "core.episode",
    "Episodes": "data",
    "FewShotClassifier": "apply.estimator",
    "GradientDescent": "core.rules",
    "Graph": "core.learner",
    "Head": "core.learner",
    "InputError": "io.errors",
    "Learner": "core.learner",
    "Objective": "core.learner",
    "Outputs": "core.outputs",
    "Part": "core.learner",
    "Pipeline": "core.pipeline",
    "Refine": "core.learner",
    "Rule": "core.rules",
    "Setting": "data",
    "Split": "data",
    "Target": "core.episode",
    "Trainer": "loops.trainer",
    "Transform": "data",
    "build": "experiment.builder",
    "evaluate": "loops.evaluation",
    "get": "core.registry",
    "load": "apply.predict",
    "load_data": "data:load",
}
__all__ = [
    "Acquire",
    "Adapt",
    "Augment",
    "Conv4",
    "Episode",
    "Episodes",
    "FewShotClassifier",
    "GradientDescent",
    "Graph",
    "Head",
    "InputError",
    "Learner",
    "Objective",
    "Outputs",
    "Part",
    "Pipeline",
    "Refine",
    "Rule",
    "Setting",
    "Split",
    "Target",
    "Trainer",
    "Transform",
    "build",
    "evaluate",
    "get",
    "load",
    "load_data",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME, modules=["testing"])

"""graphfsl: graph and semi-supervised few-shot learning. Names are imported when first used: starting is fast."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Adapt": "adapt",
    "Conv4": "nn",
    "Episode": "episode",
    "Episodes": "data",
    "FewShotClassifier": "estimator",
    "Learner": "learner",
    "Pipeline": "learner",
    "Setting": "data",
    "Split": "data",
    "Target": "episode",
    "Trainer": "train",
    "Transform": "data",
    "build": "builder",
    "evaluate": "evaluation",
    "get": "registry",
    "load": "predict",
    "load_data": "data",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'graphfsl' has no attribute {name!r}")
    home = importlib.import_module(f"graphfsl.{_HOME[name]}")
    return home.load if name == "load_data" else getattr(home, name)

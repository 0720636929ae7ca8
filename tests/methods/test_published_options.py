"""Options that are not given are those of the papers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from graphfsl.core import registry

PUBLISHED: dict[str, dict[str, Any]] = {
    "head/baseline": {"epochs": 100, "batch": 4, "lr": 0.01, "momentum": 0.9, "decay": 0.001},
    "head/baseline_plus_plus": {
        "epochs": 100,
        "batch": 4,
        "lr": 0.01,
        "momentum": 0.9,
        "decay": 0.001,
        "scale": 2,
    },
    "head/label_propagation": {"k": 20, "alpha": 0.99},
    "head/meta_baseline": {"scale": 10},
    "head/metaoptnet": {"C": 0.1, "scale": 1},
    "head/protonet": {"distance": "sqeuclidean"},
    "head/r2d2": {"lamda": 50, "alpha": 10},
    "head/relationnet": {"loss": "mse", "shots": "sum"},
    "head/rfs": {"C": 1, "normalize": True},
    "head/simple_shot": {"transform": "cl2n"},
    "head/tpn": {"k": 20, "alpha": 0.99},
    "head/wdae": {"k": 10, "temperature": 5, "noise": 0.08, "dropout": 0.7},
    "adapt/fine_tuning": {"steps": 25, "lr": 5e-5, "entropy": 1},
    "adapt/flexmatch": {"threshold": 0.95, "weight": 1, "flexible": True},
    "adapt/transmatch": {"temperature": 0.5, "alpha": 0.75, "lambda_u": 5, "views": 2},
    "graph/embedding_propagation": {"alpha": 0.5},
    "pretrain/consistency": {"threshold": 0.95, "weight": 1},
    "pretrain/cross_entropy": {"classifier": "linear", "scale": 10},
    "pretrain/distillation": {"alpha": 0.5, "beta": 0.5, "temperature": 4},
    "pretrain/simclr": {"temperature": 0.5},
    "refine/alpha_tim": {
        "steps": 1000,
        "lr": 1e-4,
        "temperature": 15,
        "cross_entropy": 1,
        "marginal": 1,
    },
    "refine/bd_cspn": {"most": 8, "over": "nodes"},
    "refine/ilpc": {"k": 15, "alpha": 0.8, "tau": 3},
    "refine/laplacian_shot": {"k": 3, "steps": 20},
    "refine/masked_soft_kmeans": {"steps": 1, "hidden": 20},
    "refine/plcm": {"C": 10},
    "refine/pt_map": {"power": 0.5, "steps": 20, "lam": 10, "alpha": 0.2},
    "refine/soft_kmeans_cluster": {"steps": 1, "radius": 100},
    "refine/tim": {
        "steps": 150,
        "temperature": 15,
        "cross_entropy": 0.1,
        "marginal": 1,
        "conditional": 0.1,
    },
    "refine/transductive_fine_tuning": {"steps": 25, "lr": 5e-5},
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_what_is_not_given_is_as_published(method: str) -> None:
    """The constants that a method's docstring says to be those of its paper or of the authors'
    code.
    """
    parameters = inspect.signature(registry.get(*method.split("/"))).parameters
    assert {name: parameters[name].default for name in PUBLISHED[method]} == PUBLISHED[method]

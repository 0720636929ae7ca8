"""Every function of graphfsl.functional is tested and states its shapes."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from graphfsl import functional
from graphfsl.functional.distances import cosine, squared_euclidean
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.functional.statistics import accuracy, mean_and_ci95  # noqa: F401 (in WRONG)
from tests.support import ROOT
from tests.support.tensors import B, C, D, M, N, normal, weights


def every_function() -> dict[str, Callable[..., object]]:
    """All functions of graphfsl.functional, those of files that are added later too."""
    modules = [
        importlib.import_module(f"{functional.__name__}.{m.name}")
        for m in pkgutil.iter_modules(functional.__path__)
    ]
    return {
        f"{m.__name__}.{n}": f
        for m in modules
        for n, f in inspect.getmembers(m, inspect.isfunction)
        if f.__module__ == m.__name__
    }


def test_every_function_is_tested() -> None:
    tested = {
        alias.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.name != "test_properties.py"  # a property is not a value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(functional.__name__)
        for alias in node.names
    }
    names = {name.rpartition(".")[2] for name in every_function()}
    assert {n for n in names if not n.startswith("_")} <= tested, "write its naive loop"


@pytest.mark.parametrize(("name", "function"), every_function().items())
def test_every_function_is_checked_and_states_its_shapes(
    name: str, function: Callable[..., object]
) -> None:
    plain = inspect.unwrap(function)
    assert plain is not function, "imported before the hook of conftest.py was installed"
    bare = {
        k: a
        for k, a in plain.__annotations__.items()
        if re.search(
            r"\bTensor\b(?!, "
            r"['\"])",
            str(a),
        )
    }
    assert not bare, f'{name} takes or gives a tensor of unknown shape; say Float[Tensor, "*B n d"]'


# torch broadcasts all of these without a word.
WRONG = [
    "cosine(torch.ones(1, 7, 5), torch.ones(3, 4, 5))",
    "squared_euclidean(torch.ones(7, 5), torch.ones(3, 4, 5))",
    "prototypes(torch.ones(3, 7, 5), torch.ones(1, 7, 4))",
    "hide_absent(torch.ones(3, 7, 4), torch.ones(1, 6, 4))",
    "present(torch.ones(3, 7, 4).long())",
    "soft_assign(torch.ones(3, 7, 4), torch.ones(1, 7).bool())",
    "accuracy(torch.ones(3, 7, 4), torch.ones(3, 1).long())",
    "mean_and_ci95(torch.ones(3, 7))",
]


@pytest.mark.parametrize("call", WRONG)
def test_shapes_that_disagree_are_found_in_tests(call: str) -> None:
    with pytest.raises(TypeCheckError):
        eval(call)


def test_without_the_hook_nothing_is_checked() -> None:
    """What users run: plain functions, whose annotations nobody reads."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    imports = [line for line in lines if line.startswith("from graphfsl.functional.")]
    checks = "assert not any(type(f).__module__.startswith('jaxtyping') for f in sys.meta_path)"
    plain = (
        "assert not any(hasattr(f, '__wrapped__') for f in (cosine, prototypes, soft_assign, "
        "accuracy))"
    )
    code = "\n".join(["import sys, torch", *imports, checks, plain, *WRONG])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CALLS = {
    squared_euclidean: (normal(B, N, D), normal(B, M, D)),
    cosine: (normal(B, N, D), normal(B, M, D)),
    prototypes: (normal(B, N, D), weights()),
    present: (weights(),),
    hide_absent: (normal(B, N, C), weights()),
    soft_assign: (normal(B, N, C), normal(B, N) > 0),
    accuracy: (normal(B, N, C), normal(B, N).long()),
}


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f.__name__)
def test_checked_functions_run_under_vmap_on_meta_and_on_fake_tensors(
    function: Callable[..., Tensor],
) -> None:
    inputs = CALLS[function]
    expected = function(*inputs)
    stacked = [torch.stack([t, t.flip(0)]) for t in inputs]
    got = torch.func.vmap(function)(*stacked)
    torch.testing.assert_close(got, torch.stack([expected, expected.flip(0)]))
    assert function(*(t.to("meta") for t in inputs)).shape == expected.shape
    with FakeTensorMode(), torch.device("cuda"):
        fake = function(*(torch.empty(t.shape, dtype=t.dtype) for t in inputs))
    assert (
        fake.shape == expected.shape and fake.dtype == expected.dtype and fake.device.type == "cuda"
    )

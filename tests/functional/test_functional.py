"""Every function of graphfsl.functional against a loop over numbers in float64."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
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
from graphfsl.functional.base_episodes import base_episodes
from graphfsl.functional.distances import cosine, length, squared_euclidean
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.functional.statistics import accuracy, answered, mean_and_ci95, or_one, total_or_one
from graphfsl.io.errors import InputError
from tests.support import ROOT

B, N, M, D, C = 3, 7, 4, 5, 4
FLOATS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(a: Tensor, b: Tensor, function: object) -> Tensor:
    """(…, n, d), (…, m, d) -> (…, n, m) by a function of two lists of numbers."""
    out = a.new_empty(*a.shape[:-1], b.shape[-2])
    for lead in (
        torch.cartesian_prod(*(torch.arange(s) for s in a.shape[:-2])).view(-1, a.ndim - 2).tolist()
    ):
        for i, x in enumerate(a[tuple(lead)].tolist()):
            for j, y in enumerate(b[tuple(lead)].tolist()):
                out[(*lead, i, j)] = function(x, y)  # type: ignore[operator]
    return out


def weights(seed: int = 0) -> Tensor:
    """(B, N, C) soft labels; class 2 has no weight in task 1, nodes 5 and 6 of task 2 are
    padding.
    """
    w = uniform(B, N, C, seed=seed)
    w[1, :, 2] = 0
    w[2, 5:] = 0
    w[0, 0] = torch.tensor([0.0, 1, 0, 0])
    return w


def naive_prototypes(z: Tensor, w: Tensor) -> Tensor:
    out = torch.zeros(z.shape[0], w.shape[2], z.shape[2], dtype=torch.float64)
    for b in range(z.shape[0]):
        for c in range(w.shape[2]):
            total = sum(w[b, :, c].tolist())
            for k in range(z.shape[2]):
                if total > 0:
                    out[b, c, k] = (
                        sum(float(w[b, i, c] * z[b, i, k]) for i in range(z.shape[1])) / total
                    )
    return out


LEADS = pytest.mark.parametrize("lead", [(B,), (2, B), (2, 2, B)], ids=str)


@FLOATS
@LEADS
def test_squared_euclidean(lead: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    a, b = normal(*lead, N, D), normal(*lead, M, D, seed=1)
    expected = pairs(a, b, lambda x, y: sum((p - q) ** 2 for p, q in zip(x, y, strict=True)))
    got = squared_euclidean(a.to(dtype), b.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_squared_euclidean_is_never_negative() -> None:
    a = (100 + normal(2, 50, 64) * 1e-3).float()
    for x in (a, a[None], a[0]):
        assert (squared_euclidean(x, x) >= 0).all()


@FLOATS
@LEADS
def test_cosine(lead: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    a, b = normal(*lead, N, D), normal(*lead, M, D, seed=1)

    def one(x: list[float], y: list[float]) -> float:
        return sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(
            sum(p * p for p in x) * sum(q * q for q in y)
        )

    torch.testing.assert_close(
        cosine(a.to(dtype), b.to(dtype)).double(), pairs(a, b, one), rtol=0, atol=tolerance
    )
    assert not cosine(torch.zeros(1, 2, 3), torch.ones(1, 1, 3)).any(), (
        "a zero vector is like nothing"
    )


def test_length() -> None:
    a = normal(2, N, D)
    expected = torch.tensor(
        [[[math.sqrt(sum(v * v for v in row))] for row in task] for task in a.tolist()]
    )
    torch.testing.assert_close(length(a).float(), expected)
    assert 0 < length(torch.zeros(1, D)).item() < 1e-6, "it may divide"


@FLOATS
def test_prototypes(dtype: torch.dtype, tolerance: float) -> None:
    z, w = normal(B, N, D), weights()
    got = prototypes(z.to(dtype), w.to(dtype))
    assert got.dtype == dtype and not got[1, 2].any(), "a class without weight is at zero"
    torch.testing.assert_close(got.double(), naive_prototypes(z, w), rtol=tolerance, atol=tolerance)


def test_prototypes_ignore_padding_the_scale_of_weights_and_other_tasks() -> None:
    z, w = normal(B, N, D), weights()
    expected = prototypes(z, w)
    other = z.clone()
    other[2, 5:] = 1e6
    torch.testing.assert_close(prototypes(other, w), expected)
    torch.testing.assert_close(prototypes(z, 1e-9 * w), expected)
    torch.testing.assert_close(prototypes(z[1:2], w[1:2]), expected[1:2])


def test_prototypes_of_one_hot_labels_are_class_means() -> None:
    z, y = normal(B, N, D), torch.tensor([0, 1, 2, 3, 0, 1, 0])
    w = torch.nn.functional.one_hot(y, C).double().expand(B, -1, -1)
    means = torch.stack([z[:, y == c].mean(1) for c in range(C)], 1)
    torch.testing.assert_close(prototypes(z, w), means)
    # soft k-means: a one-hot assignment of the unlabeled half gives the means of both halves
    known = w * (torch.arange(N) < 4).view(1, N, 1)
    torch.testing.assert_close(prototypes(z, known + (w - known)), means)


def test_a_step_of_soft_k_means() -> None:
    """Ren et al. 2018, equation 4: p_c = (sum_i h_i w_ic + sum_j h_j z_jc) / (sum_i w_ic + sum_j
    z_jc).
    """
    z, w, pool = normal(B, N, D), weights(), torch.arange(N) >= 4
    w[:, 4:] = 0
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[2, 5:] = False
    first = prototypes(z, w)
    share = soft_assign(hide_absent(-squared_euclidean(z, first), w), mask & pool)
    got = prototypes(z, w + share)
    for b in range(B):
        top, bottom = [[0.0] * D for _ in range(C)], [0.0] * C
        live = [c for c in range(C) if w[b, :, c].sum() > 0]
        for i in range(N):
            distance = [
                sum(float(z[b, i, k] - first[b, c, k]) ** 2 for k in range(D)) for c in range(C)
            ]
            norm = sum(math.exp(-distance[c]) for c in live)
            for c in live:
                soft = math.exp(-distance[c]) / norm if i >= 4 and bool(mask[b, i]) else 0.0
                bottom[c] += float(w[b, i, c]) + soft
                for k in range(D):
                    top[c][k] += (float(w[b, i, c]) + soft) * float(z[b, i, k])
        for c in live:
            torch.testing.assert_close(
                got[b, c], torch.tensor(top[c], dtype=torch.float64) / bottom[c]
            )


def test_present_and_hide_absent() -> None:
    w = weights()
    expected = torch.tensor([[sum(w[b, :, c].tolist()) > 0 for c in range(C)] for b in range(B)])
    assert torch.equal(present(w), expected) and int((~expected).sum()) == 1
    for shape in ((B, N, C), (2, B, N, C)):  # a head may return one set of scores per layer
        scores = normal(*shape)
        hidden = hide_absent(scores, w)
        assert (hidden[..., 1, :, 2] == -math.inf).all()
        live = hidden != -math.inf
        assert (
            torch.equal(hidden[live], scores[live])
            and int((~live).sum()) == math.prod(shape) // B // C
        )
    assert (hide_absent(scores, w).softmax(-1)[..., 1, :, 2] == 0).all()


@FLOATS
def test_soft_assign(dtype: torch.dtype, tolerance: float) -> None:
    logits, mask = normal(B, N, C) * 3, torch.ones(B, N, dtype=torch.bool)
    logits[1, :, 2] = -math.inf
    logits[2, 4] = -math.inf  # no class at all
    mask[0, 3] = False
    got = soft_assign(logits.to(dtype), mask)
    assert got.dtype == dtype and torch.isfinite(got).all()
    for b in range(B):
        for i in range(N):
            e = [math.exp(v) for v in logits[b, i].tolist()]
            row = [v / sum(e) if sum(e) and bool(mask[b, i]) else 0.0 for v in e]
            torch.testing.assert_close(
                got[b, i].double(), torch.tensor(row).double(), rtol=0, atol=max(tolerance, 1e-7)
            )
    huge = soft_assign(torch.tensor([[[1e30, -1e30, 0.0]]]), torch.ones(1, 1, dtype=torch.bool))
    assert huge.tolist() == [[[1.0, 0.0, 0.0]]]


def test_accuracy() -> None:
    scores = normal(B, N, C)
    target = torch.randint(0, C, (B, N), generator=torch.Generator().manual_seed(0))
    target[0] = scores[0].argmax(-1)
    target[0, 2:4] = -100
    target[0, 4] = (target[0, 4] + 1) % C
    target[2] = -100
    scores[1, :, 0] = -math.inf
    expected = []
    for b in range(B):
        real = [q for q in range(N) if target[b, q] >= 0]
        right = [
            q for q in real if max(range(C), key=lambda c: float(scores[b, q, c])) == target[b, q]
        ]
        expected.append(len(right) / max(len(real), 1))
    torch.testing.assert_close(
        accuracy(scores, target).double(), torch.tensor(expected).double(), rtol=0, atol=1e-6
    )
    assert expected[0] == 4 / 5 and expected[2] == 0
    torch.testing.assert_close(accuracy(scores.float(), target), accuracy(scores, target))


def test_mean_and_ci95() -> None:
    mean, half = mean_and_ci95(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    # s^2 = 4 * 0.25 / 3, sqrt(n) = 2
    assert mean == 0.5 and half == pytest.approx(3.182446305 * math.sqrt(1 / 3) / 2)
    values = uniform(600)
    mean, half = mean_and_ci95(values.float())
    listed = values.float().tolist()
    m = sum(listed) / 600
    assert mean == pytest.approx(m, abs=1e-12)
    assert half == pytest.approx(
        1.963932 * math.sqrt(sum((v - m) ** 2 for v in listed) / 599 / 600), rel=1e-6
    )
    assert mean_and_ci95(torch.ones(9)) == (1.0, 0.0)
    assert mean_and_ci95(torch.tensor([0.25])) == (0.25, None)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_the_interval_covers_as_often_as_it_says(n: int) -> None:
    samples = torch.randn(4000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = [abs(mean) <= half for mean, half in map(mean_and_ci95, samples)]
    assert abs(sum(inside) / 4000 - 0.95) < 0.01


def test_a_query_without_an_answer_makes_the_accuracy_nan() -> None:
    # an absent class
    scores = torch.tensor([[2.0, 1.0, -math.inf], [0.0, 1.0, -math.inf]]).expand(6, 2, 3).clone()
    scores[1, 1, 2], scores[2, 0], scores[3, 0, 2], scores[4, 1] = (
        math.nan,
        -math.inf,
        math.inf,
        math.nan,
    )
    target = torch.tensor([[0, 0]]).repeat(6, 1)
    target[4, 1] = -100  # padding
    got = accuracy(scores, target)
    assert answered(scores).all(-1).tolist() == [True, False, False, False, False, True]
    assert got.isnan().tolist() == [False, True, True, True, False, False]
    assert got[[0, 4, 5]].tolist() == [0.5, 1.0, 0.5]


# ---- checked signatures (conftest.py installs the hook) ----


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


def test_a_total_divides_even_where_there_is_nothing() -> None:
    assert total_or_one(torch.tensor([[0.2, 0.3], [0.0, 0.0]])).tolist() == [[0.5], [1.0]]
    assert or_one(torch.tensor([0.5, 0.0, -2.0])).tolist() == [0.5, 1.0, 1.0]


def test_the_answer_of_a_head_of_several_layers_is_its_last() -> None:
    layers = normal(3, B, N, C)
    assert torch.equal(last_layer(layers), layers[2])
    assert torch.equal(last_layer(layers[0]), layers[0])


# ------------------------------------------------------------------------ episodes of base classes


def test_base_episodes_are_the_samples_of_their_columns() -> None:
    """Every node shows a sample of its column's class, none twice; the support comes first."""
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([5, 1, 3] * 6)[torch.randperm(18, generator=g)]  # 0, 2 and 4 are missing
    ids, truth = base_episodes(labels, way=2, shot=2, unlabeled=3, count=50, generator=g)
    assert ids.shape == (50, 10)
    assert truth.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    for row in ids:
        assert len(set(row.tolist())) == 10
        first, second = labels[row[truth == 0]], labels[row[truth == 1]]
        assert len(first.unique()) == len(second.unique()) == 1 and first[0] != second[0]
    assert len(ids.unique()) == 18 and len(labels[ids[:, 0]].unique()) == 3


def test_base_episodes_follow_their_generator() -> None:
    labels = torch.arange(6).repeat(9)

    def episodes(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return base_episodes(labels, 3, 1, 4, 5, generator)[0]

    assert torch.equal(episodes(1), episodes(1)) and not torch.equal(episodes(1), episodes(2))


@pytest.mark.parametrize(("way", "unlabeled"), [(4, 1), (2, 5)])
def test_base_episodes_need_classes_and_samples(way: int, unlabeled: int) -> None:
    with pytest.raises(InputError, match="cannot be drawn"):
        base_episodes(torch.arange(3).repeat(5), way, 1, unlabeled, 1)

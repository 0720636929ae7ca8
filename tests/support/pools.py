"""Pools around a few directions, drawings of signs, and tables of labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from graphfsl.functional.propagation import propagate, symmetric


def clusters(
    classes: int, each: int, spread: float = 0.4, dim: int = 16, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Features around `classes` directions, their classes, in mixed order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(classes).repeat(each))
    means = rng.standard_normal((classes, dim))
    return (means[y] + spread * rng.standard_normal((len(y), dim))).astype(np.float32), y


def few(y: np.ndarray, each: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The support: `each` samples of the first `classes` classes."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate(
        [rng.choice(np.flatnonzero(y == c), each, replace=False) for c in range(classes)]
    )
    return ids, y[ids]


def dense(x: np.ndarray, k: int, alpha: float) -> torch.Tensor:
    """G = (I - alpha S)^-1 by the closed form, in double precision."""
    z = torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1)
    cos = z @ z.T
    cos.fill_diagonal_(-1)
    keep = torch.zeros_like(cos).scatter(1, cos.topk(k).indices, 1.0)
    a = keep * cos.clamp_min(0) ** 3
    return propagate(symmetric(a + a.T), torch.eye(len(x), dtype=torch.float64), alpha)


SIGNS = ("bär", "cross", "dash")


def draw_signs(root: Path, each: int = 12) -> dict[str, str]:
    """Drawings of three signs in folders that say nothing of them: file -> class."""
    rng, truth = np.random.default_rng(0), {}
    for i in range(each * len(SIGNS)):
        kind = i % len(SIGNS)
        image = Image.new("RGB", (40, 40), "white")
        pen, (x, y) = ImageDraw.Draw(image), rng.integers(17, 23, 2).tolist()
        if kind == 0:
            pen.ellipse((x - 14, y - 14, x + 14, y + 14), fill="black")
        if kind == 1:
            pen.line((x, 2, x, 38), fill="black", width=5)
        if kind > 0:
            pen.line((2, y, 38, y), fill="black", width=5)
        file = f"box {i % 2}/{i:03d} é.png"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / file)
        truth[file] = SIGNS[kind]
    return truth


def write_csv(path: str, labels: dict[str, str]) -> None:
    """A table of labels."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sample", "label"), *labels.items()])


def read_csv(path: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def two_each(truth: dict[str, str]) -> dict[str, str]:
    """Labels of the first two drawings of each sign."""
    return {name: c for sign in SIGNS for name, c in [p for p in truth.items() if p[1] == sign][:2]}

"""What scikit-learn's users hand to `FewShotClassifier`, checked and as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from graphfsl.io.errors import require


class Parameter:
    """A parameter that is no attribute.

    Scikit-learn takes whatever has a `transform` for a transformer.
    """

    def __get__(self, estimator: Any, owner: type) -> Any:
        raise AttributeError("transform is a parameter; read it by get_params")

    def __set__(self, estimator: Any, value: Any) -> None:
        vars(estimator)["transform"] = value


def dense(X: Any) -> Tensor:
    """Features that scikit-learn has checked, sparse or not, as a tensor of their own."""
    return torch.tensor(X.toarray() if issparse(X) else X)


def weights_of(sample_weight: Any, n: int) -> np.ndarray:
    """The weights of n samples, checked: (n,) float64, ones where none are given.

    Raises:
        InputError: for another number of weights, negative ones, and where no sample counts.
    """
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, np.float64)
    require(
        weight.shape == (n,) and np.isfinite(weight).all() and not (weight < 0).any(),
        f"sample_weight must be {n} numbers of 0 or more, one for each sample",
    )
    require(weight.any(), "every sample_weight is zero; at least one sample must count")
    return weight


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch within this block, and give the caller's random numbers back behind it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

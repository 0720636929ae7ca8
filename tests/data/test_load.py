"""Data sets by name, and where their files are looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphfsl.data import load
from tests.support.refusal import refused

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


def npz(path: Path, **arrays: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{k: np.asarray(v) for k, v in arrays.items()})
    return str(path.parent)


def test_names_and_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with refused("'omniglott'", "did you mean 'omniglot'"):
        load("omniglott", "test")
    monkeypatch.delenv("GRAPHFSL_DATA", raising=False)
    with refused("'arrays'", "data.root", "GRAPHFSL_DATA"):
        load("arrays", "test")
    monkeypatch.setenv("GRAPHFSL_DATA", str(tmp_path))
    npz(tmp_path / "test.npz", features=np.zeros((2, 2)), labels=[0, 1])
    assert len(load("arrays", "test").classes) == 2

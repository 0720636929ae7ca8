"""Pickles that are broken."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from graphfsl.io import inert_pickle
from graphfsl.io.errors import InputError
from tests.support.refusal import refused


@pytest.mark.parametrize("protocol", [2, 5])
def test_broken_pickles_end_with_one_line(tmp_path: Path, protocol: int) -> None:
    whole = pickle.dumps(
        {"data": np.arange(12, dtype=np.uint8).reshape(2, 6), "fine_labels": [1, 2]}, protocol
    )
    path = tmp_path / "train"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with refused(str(path)):
            inert_pickle.read(path, inert_pickle.ARRAYS)
    rng = np.random.default_rng(0)
    for k in range(len(whole)):  # whatever a byte becomes, the value is another one or is refused
        path.write_bytes(whole[:k] + rng.bytes(1) + whole[k + 1 :])
        with contextlib.suppress(InputError):
            value = inert_pickle.read(path, inert_pickle.ARRAYS)
            inert_pickle.bytes_of(value.get("data") if isinstance(value, dict) else value)

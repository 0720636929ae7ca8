"""The world of a pool: images that a small network encodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphfsl.apply.label import pool_files
from graphfsl.core import encoder as encoding
from graphfsl.core import registry
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Transform
from graphfsl.nn import Conv4


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; images are encoded by a small network, in blocks of four."""

    def tiny(*_: object) -> tuple[Pipeline, Transform, int, int]:
        torch.manual_seed(0)
        return (
            Pipeline(Conv4(3, 4), head=registry.get("head", "protonet")()).eval(),
            Transform(),
            28,
            3,
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "IMAGES_AT_ONCE", 4)
    monkeypatch.setattr(pool_files, "folder_encoder", tiny)
    return tmp_path

"""The world of a pool without the encoder of photographs."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    return tmp_path

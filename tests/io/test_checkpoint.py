"""Checkpoints that are read while a training writes the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphfsl.io.checkpoint import load_checkpoint, save_checkpoint
from graphfsl.io.errors import InputError

WRITER = """
import sys
from pathlib import Path
import torch
from graphfsl.io.checkpoint import save_checkpoint
while True:
    for step in (1, 20000):
        save_checkpoint(Path(sys.argv[1]), {"weight": torch.full((step,), step)}, {"step": step})
"""


def test_a_reader_sees_one_checkpoint_or_the_next(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"weight": torch.ones(1)}, {"step": 1})
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    try:
        seen: set[int] = set()
        while len(seen) < 2:  # until the writer has begun
            seen.add(load_checkpoint(path)[1]["step"])
        for _ in range(300):
            tensors, facts = load_checkpoint(path)
            assert tensors["weight"].tolist() == [facts["step"]] * facts["step"]
        assert writer.poll() is None, "it wrote all the while"
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("length", [0, 7, 8, 40, 200])
def test_a_checkpoint_that_is_cut_short_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"weight": torch.ones(4)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="is broken"):
        load_checkpoint(path)

"""Starting is quick: a library is imported where it is used."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

PROTONET = """
import torch
import graphfsl as gf
y = torch.arange(6).repeat_interleave(10)
split = gf.Split(torch.rand(60, 16), y, tuple("abcdef"), "mine/test")
learner = gf.build({"head": "protonet"}, (16,), 5)
gf.evaluate(learner, split, gf.Setting(way=5, shot=1, query=5), episodes=10).mean
"""
TRAINER = "import graphfsl as gf\ngf.Trainer(steps=1)"
HEAVY = (
    "lightning",
    "matplotlib",
    "networkx",
    "omegaconf",
    "pandas",
    "pytorch_lightning",
    "scipy.optimize",
    "scipy.sparse",
    "scipy.stats",
    "sklearn",
    "timm",
    "torch_geometric",
    "torchmetrics",
    "torchvision",
)


def imported(code: str) -> set[str]:
    """Which of the heavy libraries a program has imported when it ends."""
    shown = f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", shown], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_building_and_evaluating_a_protonet_takes_torch_alone() -> None:
    assert imported(PROTONET) == set()


def test_a_trainer_adds_fabric_and_none_of_what_fabric_could_do_without() -> None:
    assert imported(TRAINER) == set()


def test_what_fabric_does_without_can_be_imported_after_it() -> None:
    assert "torchmetrics" in imported(f"{TRAINER}.fabric()\nimport torchmetrics")

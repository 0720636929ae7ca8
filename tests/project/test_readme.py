"""The README's six lines run as they stand, and what they print is as it should be."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphfsl.experiment import run
from graphfsl.experiment.data_source import Splits
from graphfsl.experiment.experiment import Experiment
from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_six_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 7  # the import, and six lines
    assert "steps=300" in code
    exec(code.replace("steps=300", "steps=10, val_episodes=20"), {})
    found = re.fullmatch(
        r"5-way 1-shot: ([\d.]+) ± [\d.]+ % \(semi-supervised, running BatchNorm statistics\)\n",
        capsys.readouterr().out,
    )
    assert found and float(found[1]) > 40


def test_the_experiment_on_a_users_own_photographs_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs/howto/own_images.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    generator = np.random.default_rng(0)
    for c in range(30):
        folder = tmp_path / "photos" / f"class {c:02}"
        folder.mkdir(parents=True)
        for i in range(20):
            Image.fromarray(generator.integers(0, 256, (4, 5, 3), np.uint8)).save(
                folder / f"{i}.png"
            )
    (tmp_path / "mine.yaml").write_text(text)
    place = [f"data.root={tmp_path / 'photos'}", "data.size=16", "data.fractions=[0.66,0.17,0.17]"]
    run.check(Experiment.read(tmp_path / "mine.yaml", place), Splits())

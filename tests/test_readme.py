"""The README's code runs as it stands, and its numbers are those of the committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_six_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 7  # the import, and six lines
    assert "steps=300" in code
    exec(code.replace("steps=300", "steps=10, val_episodes=20"), {})
    found = re.fullmatch(r"5-way 1-shot: ([\d.]+) ± [\d.]+ % \(semi-supervised\)\n", capsys.readouterr().out)
    assert found and float(found[1]) > 40


def test_every_number_of_the_tables_is_a_committed_result() -> None:
    rows = re.findall(r"^\|.*\]\((experiments/results/[^)]+)\).*$", README, re.MULTILINE)
    assert rows, "the README's tables name their results files"
    for line in README.splitlines():
        link = re.search(r"\]\((experiments/results/[^)]+\.json)\)", line)
        if not line.startswith("|") or link is None:
            continue
        measured = {f"{r['accuracy']:.2f} ± {r['ci95']:.2f}" for r in json.loads((ROOT / link[1]).read_text())["rows"]}
        shown = set(re.findall(r"\d+\.\d+ ± \d+\.\d+", line))
        assert shown and shown <= measured, f"{shown - measured} is not in {link[1]}"

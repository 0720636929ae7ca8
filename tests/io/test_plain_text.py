"""A user's names in tables: one line each, nothing that a spreadsheet runs, nothing that steers a
terminal.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest

from graphfsl.apply.label.label_table import read_labels
from graphfsl.apply.label.pool_files import write_table
from graphfsl.io.plain_text import csv_table, guarded, one_line, unguarded
from graphfsl.report.tables import to_csv
from tests.support.command import Call

NAMES = [
    "=1+1",
    "+x",
    "-x",
    "@x",
    "\tx",
    "'=x",
    "''-x",
    "'x",
    "plain",
    "a=b",
    "-1",
    "+2.5e3",
    "=",
    "\nx",
    "é",
]


def test_formulas_are_guarded_and_read_back() -> None:
    for name in NAMES:
        cell = guarded(name)
        assert unguarded(cell) == name and guarded(-0.5) == -0.5
        assert cell[0] not in "=@\t\n" and (cell[0] not in "+-" or float(cell))
    table = csv_table(["=head"], [[n] for n in NAMES])
    assert [row[0] for row in csv.reader(io.StringIO(table, newline=""))] == [
        "'=head",
        *map(guarded, NAMES),
    ]
    assert "'=HYPERLINK" in to_csv([{"method": "=HYPERLINK(1)"}])


def test_labels_are_support_again(tmp_path: Path) -> None:
    names = [n for n in NAMES if n == n.strip()] + ["two\nlines", 'a "b", c']
    write_table(tmp_path / "labels.csv", {"sample": names, "label": names[::-1]})
    assert read_labels(tmp_path / "labels.csv") == dict(zip(names, names[::-1], strict=True))


def test_names_on_one_line() -> None:
    assert one_line("a\nb\tc\x1b[31m\u202ed é 🦤 [red]") == "a\\nb\\tc\\x1b[31m\\u202ed é 🦤 [red]"


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_odd_names_through_the_commands(world: Path, call: Call) -> None:
    from PIL import Image

    classes = ("[/red]", "two\nlines")
    for name in classes:
        (world / "s" / name).mkdir(parents=True)
        for i in ("=1.png", "tab\t.png"):
            Image.fromarray(np.full((16, 16, 3), 200 * (name == "[/red]"), np.uint8)).save(
                world / "s" / name / i
            )
    code, _, err = call(
        "run", "my.yaml", "--out", "[/x]", "trainer.steps=1", "evaluation.episodes=2"
    )
    assert code == 0, err
    code, out, err = call("predict", "[/x]", "--support", "s", "--query", "s")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 4 and all(line.count("\t") == 2 for line in lines), err
    assert "\\n" in out and "[/red]" in out
    code, out, err = call("evaluate", "[/x]", "evaluation.episodes=2", "data.root=data")
    assert code == 0 and "results: [/x]/evaluations" in out and "the run on arrays" in out, err
    code, out, err = call(
        "evaluate", "[/x]", "--on", "arrays", "data.root=data", "evaluation.episodes=2"
    )
    assert code == 0 and "of arrays" in out, err
    code, out, err = call(
        "evaluate", "[/x]", "evaluation.episodes=2", "episode.shot=1", "data.root=data"
    )
    assert code == 0 and "the run on" not in out, err

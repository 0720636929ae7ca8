"""A user's names in tables: on one line, and without what a spreadsheet would run as a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# how a cell begins that a spreadsheet runs, or one that was guarded
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# also what turns the direction
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """Text as one line, without letters that steer a terminal.

    Line ends, tabs and the like become escapes.
    """
    return CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def guarded(cell: Any) -> Any:
    """Text that begins as a formula (=, +, -, @, tab) gets a ' in front, as spreadsheets know it.

    Numbers do not.
    """
    if not isinstance(cell, str) or NUMBER.fullmatch(cell) or not FORMULA.match(cell):
        return cell
    return f"'{cell}"


def unguarded(cell: str) -> str:
    """The text that `guarded` was given."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def csv_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV, every cell guarded."""
    file = io.StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    table.writerow(map(guarded, heads))
    table.writerows([guarded(cell) for cell in row] for row in rows)
    return file.getvalue()

"""Fills the tables of README.md and docs/ from the committed results.

    python tools/fill_tables.py

Between `<!-- table: NAME -->` and `<!-- end -->` stands what `graphfsl reproduce --table NAME`
prints, with links that start at the page's own folder. A test says where a table is stale.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def pages() -> Iterator[Path]:
    """README.md and the pages of docs/ that are written by hand."""
    yield ROOT / "README.md"
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if not {"generated", "_build"} & set(path.relative_to(ROOT).parts):
            yield path


def printed(name: str, page: Path) -> str:
    """The table NAME with links as they are written on this page."""
    from graphfsl.report.committed_tables import table

    up = os.path.relpath(ROOT, page.parent)
    prefix = "" if up == "." else f"{up}/"
    return table(name).replace("](experiments/", f"]({prefix}experiments/")


def filled(page: Path) -> str:
    """A page's text with every table as it is printed."""

    def block(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{printed(found[1], page).strip()}\n<!-- end -->"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for path in pages():
        path.write_text(filled(path), encoding="utf-8")

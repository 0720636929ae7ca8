"""The drawing of the rooms.

Their order is from pyproject.toml, what they are from their docstrings, and who imports whom from
their files.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROW, LEFT, CELL, TOP = 40, 450, 30, 96
INK = "var(--pst-color-text-base, #6b7280)"
MUTED = "var(--pst-color-text-muted, #6b7280)"
MARK = "var(--pst-color-primary, #0a7d91)"
LINE = "var(--pst-color-border, #9ca3af)"


def rooms(root: Path) -> list[str]:
    """The rooms from top to bottom, as the import contract orders them."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["name"] == "Rooms")
    names = [name.strip().removeprefix("graphfsl.") for line in layers for name in line.split("|")]
    return [name for name in names if (root / "graphfsl" / name).is_dir()]


def imported(root: Path, room: str) -> set[str]:
    """The rooms that the files of a room import, but for type checkers."""
    found: set[str] = set()
    for path in (root / "graphfsl" / room).rglob("*.py"):
        for node in _statements(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= _targets(node.module, [alias.name for alias in node.names])
            elif isinstance(node, ast.Import):
                found |= {
                    a.name.split(".")[1] for a in node.names if a.name.startswith("graphfsl.")
                }
    return found - {room}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below this one, but for those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _statements(child)


def _targets(module: str, names: list[str]) -> set[str]:
    if module == "graphfsl":
        return set(names)
    return {module.split(".")[1]} if module.startswith("graphfsl.") else set()


def sentence(root: Path, room: str) -> str:
    """The first sentence of a room's docstring, to its first semicolon."""
    tree = ast.parse((root / "graphfsl" / room / "__init__.py").read_text("utf-8"))
    doc = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
    return doc.partition(". ")[0].partition(";")[0].rstrip(".")


def imports(root: Path) -> str:
    """An SVG: the rooms, and a mark where the room of a row imports that of a column."""
    order = rooms(root)
    width, height = LEFT + CELL * len(order) + 20, TOP + ROW * len(order) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="14">',
        "<title>The rooms of graphfsl, and which of them imports which</title>",
    ]
    for column, room in enumerate(order):
        x = LEFT + CELL * column + CELL / 2
        parts.append(
            f'<text transform="translate({x + 4},{TOP - 10}) rotate(-60)" style="fill:{INK}" '
            f'font-size="13">{room}</text>'
        )
    for row, room in enumerate(order):
        parts += _row(order, row, sentence(root, room), imported(root, room), width)
    return "\n".join([*parts, "</svg>", ""])


def _row(order: list[str], row: int, about: str, below: set[str], width: int) -> list[str]:
    """A room: its name, what it is about, and a mark for each room that it imports."""
    room = order[row]
    y = TOP + ROW * row
    parts = [
        f'<line x1="0" x2="{width}" y1="{y}" y2="{y}" style="stroke:{LINE}" stroke-width="0.6"/>',
        f'<text x="6" y="{y + 17}" style="fill:{INK}" font-weight="600">{room}/</text>',
    ]
    for number, line in enumerate(_wrapped(about, 52)[:2]):
        parts.append(
            f'<text x="112" y="{y + 16 + 15 * number}" style="fill:{MUTED}" font-size="12.5">'
            f"{escape(line)}</text>"
        )
    for column, other in enumerate(order):
        x, middle = LEFT + CELL * column + CELL / 2, y + ROW / 2
        if other == room:
            parts.append(
                f'<rect x="{x - 9}" y="{middle - 9}" width="18" height="18" rx="4" '
                f'style="fill:{LINE}"/>'
            )
        elif other in below:
            parts.append(f'<circle cx="{x}" cy="{middle}" r="7" style="fill:{MARK}"/>')
    return parts


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.replace("`", "").split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines

"""Blocks of docstrings, and reStructuredText or Markdown of the blocks.

Docstrings are plain text: equations, `names` in backticks, a "name: meaning" a line, or Google's
sections.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

SECTIONS = (
    "Args",
    "Arguments",
    "Attributes",
    "Deviations",
    "Example",
    "Examples",
    "Note",
    "Notes",
    "Raises",
    "Returns",
    "Shapes",
    "Source",
    "Yields",
)
HEADING = re.compile(rf"({'|'.join(SECTIONS)}):")
ITEM = re.compile(r"(\*{0,2}[A-Za-z_][\w.]*(?:, \*{0,2}[A-Za-z_][\w.]*)*)(?: \([^)]*\))?: (.*)")


@dataclass
class Block:
    """A piece of a docstring.

    kind: "text"; "item", a named meaning; "code", lines as they are; or "section", whose blocks are
    inside.
    """

    kind: str
    text: str = ""
    name: str = ""
    inside: list[Block] = field(default_factory=list)


def parse(doc: str | None) -> list[Block]:
    """A docstring as blocks."""
    return _blocks(inspect.cleandoc(doc or "").splitlines())


def _blocks(lines: Sequence[str]) -> list[Block]:
    blocks: list[Block] = []
    fresh = True  # whether the next line opens a block
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if not line.strip():
            fresh = True
        elif HEADING.fullmatch(line):
            end = _indented_until(lines, position)
            inside = inspect.cleandoc("\n" + "\n".join(lines[position:end])).splitlines()
            blocks.append(Block("section", name=line[:-1], inside=_blocks(inside)))
            position, fresh = end, True
        elif fresh and (
            line.startswith((">>>", "|", "    ", "```")) or _is_aligned(lines, position - 1)
        ):
            end = _paragraph_until(lines, position)
            kept = [text for text in lines[position - 1 : end] if not text.startswith("```")]
            blocks.append(Block("code", text=inspect.cleandoc("\n" + "\n".join(kept))))
            position = end
        elif (fresh or blocks[-1].text.endswith((".", ";", ":"))) and (
            found := ITEM.fullmatch(line)
        ):
            blocks.append(Block("item", name=found[1], text=found[2]))
            fresh = False
        elif fresh:
            blocks.append(Block("text", text=line.strip()))
            fresh = False
        else:
            blocks[-1].text += " " + line.strip()
    return blocks


def _indented_until(lines: Sequence[str], start: int) -> int:
    """The first line from `start` on that is neither blank nor indented."""
    outside = (i for i in range(start, len(lines)) if lines[i].strip() and lines[i][0] != " ")
    return next(outside, len(lines))


def _is_aligned(lines: Sequence[str], start: int) -> bool:
    """Whether the paragraph from here on has columns: equations, each with a remark beside it."""
    paragraph = lines[start : _paragraph_until(lines, start)]
    return len(paragraph) > 1 and any(re.search(r"\S {3,}\S", line) for line in paragraph)


def _paragraph_until(lines: Sequence[str], start: int) -> int:
    """The first blank line from `start` on."""
    return next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))


def to_rst(blocks: Sequence[Block], indent: str = "") -> list[str]:
    """Blocks as lines of reStructuredText; sections as napoleon reads them."""
    lines: list[str] = []
    for block in blocks:
        if block.kind == "section":
            lines += ["", f"{indent}{block.name}:", *_section(block, indent + "    ")]
        elif block.kind == "item":
            lines += ["", f"{indent}* **{block.name}**: {escaped(block.text)}"]
        elif block.kind == "code":
            body = [f"{indent}    {line}" for line in block.text.splitlines()]
            lines += ["", f"{indent}::", "", *body, ""]
        else:
            lines += ["", indent + escaped(block.text)]
    return [*lines[1:], ""]


def _section(section: Block, indent: str) -> list[str]:
    """What stands in a section: its items one a line, the rest as paragraphs."""
    if not all(block.kind in ("item", "text") for block in section.inside):
        return ["", *to_rst(section.inside, indent)]
    lines = []
    for block in section.inside:
        name = f"{block.name}: " if block.kind == "item" else ""
        lines.append(f"{indent}{name}{escaped(block.text)}")
    return lines


def escaped(text: str) -> str:
    """Plain text for reStructuredText: what stands in backticks is a literal, the rest as it is."""
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(f"``{p.strip('`')}``" if p[:1] == "`" else _marks(p) for p in parts)


def _marks(text: str) -> str:
    return re.sub(r"([\\*|]|_(?!\w))", r"\\\1", text)


def to_markdown(blocks: Sequence[Block], without: Sequence[str] = ()) -> str:
    """Blocks as Markdown, but for the items that are named in `without`."""
    parts = []
    for block in blocks:
        if block.kind == "section":
            if inside := to_markdown(block.inside, without):
                parts.append(f"**{block.name}**\n\n{inside}")
        elif block.kind == "code":
            parts.append(f"```text\n{block.text}\n```")
        elif block.kind == "item":
            if not {name.strip() for name in block.name.split(",")} <= set(without):
                parts.append(f"- **{block.name}**: {plain(block.text)}")
        else:
            parts.append(plain(block.text))
    return "\n\n".join(parts)


def plain(text: str) -> str:
    """Plain text for Markdown: nothing outside backticks marks anything."""
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(
        p if p[:1] == "`" else re.sub(r"([\\*_<>\[\]|~$#{}])", r"\\\1", p) for p in parts
    )

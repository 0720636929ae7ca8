"""How dense the code is: `python tools/density.py [FOLDER]`, for orientation; it is no bar.

Prints tokens a statement, nested comprehensions a thousand lines, assignments of several values at
once, and the functions with the most tokens a statement. Docstrings, comments and line ends are no
tokens.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
SHOWN = 20  # of the densest functions
LEAST = 5  # statements of a function that is listed


@dataclass(frozen=True)
class Density:
    """What was counted in some code."""

    lines: int = 0
    tokens: int = 0
    statements: int = 0
    nested: int = 0
    tuples: int = 0

    def __add__(self, other: Density) -> Density:
        return Density(
            self.lines + other.lines,
            self.tokens + other.tokens,
            self.statements + other.statements,
            self.nested + other.nested,
            self.tuples + other.tuples,
        )

    @property
    def per_statement(self) -> float:
        """Tokens a statement."""
        return self.tokens / max(self.statements, 1)


def is_docstring(node: ast.AST) -> bool:
    """Whether a statement is a text alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def density_of(source: str) -> Density:
    """What there is in a piece of source code."""
    tree = ast.parse(source)
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and not is_docstring(n)]
    texts = {n.lineno for n in ast.walk(tree) if is_docstring(n)}
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in SILENT and token.start[0] not in texts
    ]
    nested = sum(_holds_comprehension(n) for n in ast.walk(tree) if isinstance(n, COMPREHENSIONS))
    tuples = sum(_sets_several(n) for n in statements)
    return Density(source.count("\n") + 1, len(tokens), len(statements), nested, tuples)


def _holds_comprehension(node: ast.AST) -> bool:
    return any(isinstance(inner, COMPREHENSIONS) for inner in ast.walk(node) if inner is not node)


def _sets_several(node: ast.AST) -> bool:
    """Whether an assignment is `a, b = x, y`."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def functions_in(file: Path) -> dict[str, Density]:
    """The density of each function of a file, by `file:line name`."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            own = lines[node.lineno - 1 : node.end_lineno]
            indent = len(own[0]) - len(own[0].lstrip())
            text = "\n".join(line[indent:] for line in own)
            try:
                found[f"{file}:{node.lineno} {node.name}"] = density_of(text)
            except SyntaxError:  # a text of several lines that is less indented
                continue
    return found


def main(folder: Path) -> None:
    """Print the density of all Python files below a folder."""
    files = sorted(folder.rglob("*.py"))
    whole = sum((density_of(file.read_text(encoding="utf-8")) for file in files), Density())
    print(f"{len(files)} files, {whole.lines:,} lines, {whole.statements:,} statements")
    print(f"tokens a statement: {whole.per_statement:.1f}")
    print(f"nested comprehensions a thousand lines: {1000 * whole.nested / whole.lines:.2f}")
    print(f"assignments of several values: {whole.tuples}")
    functions = {k: v for file in files for k, v in functions_in(file).items()}
    long = {k: v for k, v in functions.items() if v.statements >= LEAST}
    print("densest functions, in tokens a statement:")
    for name in sorted(long, key=lambda k: -long[k].per_statement)[:SHOWN]:
        print(f"{long[name].per_statement:6.1f}  {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "graphfsl"))

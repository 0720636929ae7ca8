"""The tests stand where what they test stands, and no test file needs another."""

from __future__ import annotations

import ast

from tests.support import ROOT

TESTS = ROOT / "tests"
OF_NO_ROOM = {"project", "support"}  # what is not of the package, and what tests use


def test_folders_are_those_of_the_package() -> None:
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    strange = [
        str(folder)
        for folder in folders
        if not (ROOT / "graphfsl" / folder).is_dir() and str(folder) not in OF_NO_ROOM
    ]
    assert not strange, "a test stands in the folder of what it tests"


def test_facts_of_a_method_stand_in_a_file_of_its_name() -> None:
    """Or in test_what_…_share.py, where several methods of a slot have them."""
    methods = ROOT / "graphfsl/methods"
    strange = [
        str(path.relative_to(ROOT))
        for path in (TESTS / "methods").glob("*/test_*.py")
        if not (methods / path.parent.name / path.name.removeprefix("test_")).exists()
        and not (path.stem.startswith("test_what_") and path.stem.endswith("_share"))
    ]
    assert not strange


def test_no_test_file_imports_another() -> None:
    found = []
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            parts = {part for module in modules for part in module.split(".")}
            if "tests" in parts and any(part.startswith("test_") for part in parts):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, "what several test files use belongs into tests/support or conftest.py"

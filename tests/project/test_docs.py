"""The pages of docs/, README and CONTRIBUTING: their code runs, their commands exist, their links
and numbers are true.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.main import get_command

import graphfsl
import graphfsl.testing
from graphfsl.cli.terminal import app
from graphfsl.core import registry
from graphfsl.core.traits import TRAITS
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.errors import InputError
from graphfsl.io.package_data import experiments_dir, find_experiments
from graphfsl.report.committed_tables import table
from tests.support import ROOT

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "experiments" / "README.md",
    *(p for p in sorted(DOCS.rglob("*.md")) if not {"generated", "_build"} & set(p.parts)),
]
BLOCK = re.compile(
    r"(<!-- parsed only: .+ -->\n)?^```([^`\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE
)
PARSED_ONLY = ("CONTRIBUTING.md", "add_method.md")  # test_contributing.py runs its example
LESS = {"steps=300": "steps=5, val_episodes=10", "steps=20)": "steps=2)"}
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def blocks(page: Path) -> list[tuple[bool, str, str]]:
    """(whether it is run, language, text) of each block of code."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(not mark and page.name not in PARSED_ONLY, kind, text) for mark, kind, text in found]


def of_language(*languages: str) -> list[Path]:
    return [p for p in PAGES if any(kind in languages for _, kind, _ in blocks(p))]


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Code


WITH_PYTHON = [p for p in of_language("python") if p.name != "README.md"]  # test_readme.py runs it


@pytest.mark.parametrize("page", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page in their order, with fewer steps; those marked are compiled."""
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {}
    for runs, kind, text in blocks(page):
        if kind == "python":
            for long, short in LESS.items():
                text = text.replace(long, short)
            code = compile(text, f"{page.name}", "exec")
            if runs:
                exec(code, shared)


@pytest.mark.parametrize("page", of_language("yaml"), ids=names(of_language("yaml")))
def test_the_yaml_of_a_page_is_an_experiment_or_a_study(page: Path, tmp_path: Path) -> None:
    for runs, kind, text in blocks(page):
        if kind != "yaml":
            continue
        read = yaml.safe_load(text)
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        if "grid" in read:
            assert (experiments_dir() / read["experiment"]).is_file()
        elif runs and "data" in read:
            Experiment.read(file, [])


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every graphfsl command of a page's blocks, without their comments."""
    for _, kind, text in blocks(page):
        if kind in ("console", "bash", ""):
            for line in text.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if "graphfsl" in words:
                    yield words[words.index("graphfsl") + 1 :]


WITH_COMMANDS = [page for page in PAGES if any(commands(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=names(WITH_COMMANDS))
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for words in commands(page):
        name, *rest = words
        assert name in COMMANDS, f"no command {name!r}: {words}"
        command = COMMANDS[name]
        flags = {flag for p in command.params for flag in p.opts} | {"--help"}
        for word in rest:
            assert not word.startswith("--") or word in flags, f"no option {word!r}: {words}"
        for word in rest:
            assert ">" in word or "=" not in word or re.match(r"[a-z_]+(\.[\w.]+)?=", word), word
        check_names(name, rest)


def check_names(command: str, words: list[str]) -> None:
    """What a command names is there, and its overrides are ones of that experiment."""
    first = words[0] if words else ""
    plain = [w for w in words[1:] if re.match(r"[a-z_]+[\w.]*=", w)]
    if command in ("run", "pretrain", "episodes") and first not in ("EXPERIMENT", "mine.yaml"):
        Experiment.read(first, plain)
    if command == "run" and first == "EXPERIMENT":
        Experiment.read("snell2017_glyphs_5w1s", plain)
    if command == "reproduce" and first and not first.startswith("--"):
        assert first.endswith(".yaml") or find_experiments(first)
    if command == "reproduce" and first == "--table":
        assert table(words[1])
    if command == "ablate":
        assert (experiments_dir() / "ablations" / f"{first}.yaml").is_file()
    if command == "methods" and first:
        assert first in {n for _, n in registry.find()}


# Numbers


def test_every_table_is_what_reproduce_prints() -> None:
    tables = load(ROOT / "tools" / "fill_tables.py", "fill_tables")
    shown = {n for page in tables.pages() for n, _ in tables.BLOCK.findall(page.read_text("utf-8"))}
    studies = {p.stem for p in (experiments_dir() / "results").glob("omniglot_*.csv")}
    assert {"headlines", "omniglot", "cifar", "glyphs", *studies} <= shown
    for page in tables.pages():
        assert page.read_text("utf-8") == tables.filled(page), f"{page}: run `make tables`"


def test_other_numbers_stand_beside_the_command_that_prints_them() -> None:
    outside = re.compile(r"<!-- table: .*?<!-- end -->", re.DOTALL)
    for page in PAGES:
        for line in outside.sub("", page.read_text("utf-8")).splitlines():
            numbers = re.findall(r"\d+\.\d+ ± \d+\.\d+", line)
            commands = re.findall(r"`graphfsl reproduce --table (\w+)`", line)
            assert not numbers or len(commands) == 1, f"{page.name}: {line}"
            for number in numbers:
                assert number in table(commands[0]), f"{page.name}: {number}"


# Links


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", text):
        if "generated/" not in target:  # Sphinx checks those
            assert (page.parent / target).exists(), target
    tracked = re.findall(r"`((?:graphfsl|experiments|docs|tests|tools|benchmarks)/[\w./-]+)`", text)
    for path in tracked:
        assert (ROOT / path).exists() or path.startswith("docs/_build"), path


def test_names_of_other_libraries_are_in_the_inventories() -> None:
    """Sphinx shows a name that it does not find without a link, and says nothing."""
    known = set(graphfsl.__all__)
    for file in (DOCS / "_inventories").glob("*.inv"):
        head, _, packed = file.read_bytes().partition(b"using zlib.\n")
        assert head.startswith(b"# Sphinx inventory version 2\n")
        known |= {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}
    for page in PAGES:
        for target in re.findall(r"\{py:\w+\}`(?:[^`<]*<)?([\w.]+)>?`", page.read_text("utf-8")):
            assert target.removeprefix("graphfsl.") in known, f"{page.name}: {target}"


def test_the_build_opens_no_connection_and_warnings_are_errors() -> None:
    settings = (DOCS / "conf.py").read_text("utf-8")
    mapping = settings.partition("intersphinx_mapping = {")[2].partition("\n}")[0]
    files = re.findall(r'"(_inventories/\w+\.inv)"', mapping)
    assert len(files) == mapping.count("https://") == 3
    assert all((DOCS / file).is_file() for file in files)
    assert "sphinx -W " in (ROOT / "Makefile").read_text("utf-8")
    script = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    assert "make --no-print-directory docs & docs=$!" in script
    assert 'wait "$docs" || failed=1' in script


def test_every_method_and_data_set_has_its_line() -> None:
    methods, data_sets = (DOCS / "methods.md").read_text(), (DOCS / "howto/data.md").read_text()
    for _, name in registry.find():
        assert f"[`{name}`](generated/methods/{name}.md)" in methods, name
    for path in (ROOT / "graphfsl/data/sets").glob("[a-z]*.py"):
        assert f"`{path.stem}`" in data_sets, path.stem
    concepts = (DOCS / "concepts.md").read_text()
    for trait in TRAITS:
        assert f"| `{trait}` |" in concepts, trait


def test_modules_that_moved_are_where_the_page_says() -> None:
    rows = re.findall(r"^\| `(graphfsl[\w.]+)` \| `(graphfsl[\w.]+)` \|$", *moved())
    assert len(rows) > 70
    for old, new in rows:
        path = ROOT / f"{old.replace('.', '/')}.py"
        assert not path.exists(), f"{old} has not moved"
        assert is_there(new), new
    assert len({old for old, _ in rows}) == len(rows)


def is_there(name: str) -> bool:
    """Whether this is a module, or a name in one."""
    parent, _, own = name.rpartition(".")
    module = importlib.import_module(parent)
    return hasattr(module, own) or importlib.util.find_spec(name) is not None


def moved() -> tuple[str, re.RegexFlag]:
    return (DOCS / "upgrading.md").read_text(), re.MULTILINE


# Generated pages


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return dict(importlib.import_module("pages").all_pages())
    finally:
        sys.path.remove(str(DOCS / "_ext"))


def test_every_method_has_a_page_with_its_options(generated: dict[str, str]) -> None:
    for slot, name in registry.find():
        page = generated[f"methods/{name}.md"]
        cls = registry.get(slot, name)
        assert page.startswith(f"# {name}\n") and f"`{cls.__name__}`" in page
        for trait in registry.describe(slot, name)["traits"]:
            assert f"- `{trait}`: " in page
        assert "see its class" not in page, "a trait that the pages do not know"
    page = generated["methods/protonet.md"]
    assert "| `distance` | str | `sqeuclidean` |" in page
    assert "graphfsl run protonet/snell2017_omniglot_20w1s" in page
    assert "| 98.64 ± 0.17 | 99.59 ± 0.08 | 95.89 ± 0.15 | 98.95 ± 0.06 |" in page


def test_a_method_of_values_has_its_results_too(generated: dict[str, str]) -> None:
    page = generated["methods/kernel_ridge.md"]
    assert "sinusoid, inductive:" in page and "rasmussen2006_sinusoid_10s" in page


def test_generated_pages_hold_all_commands_and_all_of_the_api(generated: dict[str, str]) -> None:
    for name in COMMANDS:
        assert f"## graphfsl {name}\n" in generated["commands.md"]
    shown = generated["api/graphfsl.md"] + generated["api/core.md"] + generated["api/testing.md"]
    for name in [*graphfsl.__all__, *graphfsl.core.__all__, *graphfsl.testing.__all__]:
        assert re.search(rf"^\.\. auto\w+:: {name}$", shown, re.MULTILINE), name


def test_the_drawing_of_the_imports_shows_no_import_upwards(generated: dict[str, str]) -> None:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        drawings = importlib.import_module("drawings")
    finally:
        sys.path.remove(str(DOCS / "_ext"))
    order = drawings.rooms(ROOT)
    folders = {p.parent.name for p in (ROOT / "graphfsl").glob("*/__init__.py")}
    assert set(order) == folders
    marks = 0
    for row, room in enumerate(order):
        below = drawings.imported(ROOT, room) & folders
        assert below <= set(order[row + 1 :]), f"{room} imports {below}"
        marks += len(below)
    assert generated["imports.svg"].count("<circle") == marks


def test_docstrings_become_blocks() -> None:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        docstrings = importlib.import_module("docstrings")
    finally:
        sys.path.remove(str(DOCS / "_ext"))
    blocks = docstrings.parse(
        """y_c = |x|_1 * z, as in
        `prototypes`.

        scale: of the cosine. more: of
            another.

        Args:
            x: (B, n, d) features,
                padded.
            rest: names it; as here

        Raises:
            InputError: never.
        """
    )
    assert [b.kind for b in blocks] == ["text", "item", "section", "section"]
    assert [b.name for b in blocks[2].inside] == ["x", "rest"]
    rst = "\n".join(docstrings.to_rst(blocks))
    assert "y_c = \\|x\\|_1 \\* z, as in ``prototypes``." in rst
    assert "    x: (B, n, d) features, padded." in rst
    assert docstrings.to_markdown(blocks, ["scale"]).startswith(
        "y\\_c = \\|x\\|\\_1 \\* z, as in `prototypes`."
    )


def test_the_readme_fits_on_few_screens() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


def test_a_page_of_unknown_tables_is_told() -> None:
    with pytest.raises(InputError, match="unknown table 'headline'; did you mean 'headlines'"):
        table("headline")

"""Pages that are made from the package, its experiment files and its committed results.

Nothing in them is written twice. `write_all` writes them; it needs no Sphinx.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import docstrings
import drawings
import yaml

import graphfsl
from graphfsl import core, data, functional, testing
from graphfsl.cli import catalogue
from graphfsl.core import registry
from graphfsl.io.package_data import experiment_files, experiment_name, experiments_dir
from graphfsl.nn import ENCODERS
from graphfsl.report.committed_tables import table
from graphfsl.report.results_csv import is_record

ROOT = Path(__file__).resolve().parents[2]

SLOTS = {
    "head": "scores every node of an episode of features",
    "graph": "rewrites features by passing messages between the nodes",
    "refine": "improves the head's scores, with a pool or with the other queries",
    "augment": "adds support nodes, or changes their weights",
    "acquire": "says which samples to label next",
    "adapt": "adapts a network's weights to each episode",
    "novelty": "says which nodes are of none of the classes, beside the scores",
    "pretrain": "teaches the encoder from base images, before any episode",
}
TESTING = "The generic checks of methods, for authors elsewhere."
TRAITS = {
    "transductive": "an answer depends on the other queries of the episode",
    "per_query": "each query is answered in a copy of the episode of its own",
    "uses_unlabeled": "the unlabeled samples of an episode change its answers",
    "needs_balance": "assumes as many queries of every class",
    "needs_balanced_pool": "assumes as many unlabeled samples of every class",
    "asks": "asks for the labels of chosen unlabeled samples",
    "needs_nonnegative": "features must not be negative",
    "order_sensitive": "the order of the support matters",
    "class_order_sensitive": "which class is called the first matters",
    "wants_maps": "reads feature maps, not vectors",
    "uses_class_names": "reads the names of the classes",
    "wants_base": "learns from the features of the base classes, once",
}


def write_all(folder: Path) -> None:
    """Write every generated page below `folder`, and remove those of an earlier build."""
    wanted = {folder / name: text for name, text in all_pages()}
    for old in folder.rglob("*.*"):
        if old not in wanted:
            old.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def all_pages() -> Iterator[tuple[str, str]]:
    """(path, text) of every page."""
    yield from method_pages()
    yield "encoders.md", encoder_page()
    yield "data_sets.md", data_page()
    yield "experiments.md", experiment_page()
    yield "commands.md", command_page()
    for study in committed_studies():
        yield f"studies/{study.stem}.md", study_page(study)
    yield from api_pages()
    yield "imports.svg", drawings.imports(ROOT)


# Methods


def method_pages() -> Iterator[tuple[str, str]]:
    """One page for each name, of all the slots that it fills."""
    experiments = read_experiments()
    for name in sorted({name for _, name in registry.find()}):
        entries = catalogue.method(name)
        parts = [f"# {name}", *(method_section(entry) for entry in entries)]
        parts.append(experiments_of(entries, experiments))
        parts.append(results_of(name))
        yield f"methods/{name}.md", "\n\n".join(part for part in parts if part) + "\n"


def method_section(entry: catalogue.Entry) -> str:
    """What one class is: its paper, how it is chosen, what it computes, its traits and options."""
    module, cls = registry.find()[entry.kind, entry.name]
    blocks = docstrings.parse(entry.text)
    kinds = [block.kind for block in blocks]
    told = next((i for i, kind in enumerate(kinds) if kind in ("item", "section")), len(kinds))
    computes = docstrings.to_markdown(blocks[:told])
    without = [*(o.name for o in entry.options), *catalogue.FILLED_IN]
    rest = docstrings.to_markdown(blocks[told:], without)
    where = catalogue.USE[entry.kind]
    parts = [
        f"{docstrings.plain(entry.about)}",
        f"Slot: **{entry.kind}** ({SLOTS[entry.kind]}). "
        f"Class: `{cls}` in `{module.replace('.', '/')}.py`. Choose it with",
        f"```yaml\n{as_yaml(where, entry.name)}\n```",
        f":::{{container}} equation-box\n{computes}\n:::",
        trait_list(entry.traits),
        option_table(entry.options),
        rest,
    ]
    return "\n\n".join(part for part in parts if part)


def as_yaml(key: str, name: str) -> str:
    """learner.head, protonet -> the two lines of a configuration."""
    section, _, option = key.partition(".")
    return f"{section}:\n  {option}: {name}"


def trait_list(traits: Sequence[str]) -> str:
    """The traits of a method, each with what it says."""
    if not traits:
        return "Traits: none. It is inductive: each query is answered from the support alone."
    lines = [f"- `{trait}`: {TRAITS.get(trait, 'see its class')}" for trait in traits]
    return "Traits:\n\n" + "\n".join(lines)


def option_table(options: Sequence[catalogue.Option]) -> str:
    """The options of a method, encoder or data set."""
    if not options:
        return "It has no options."
    lines = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    for o in options:
        default = "must be given" if o.default is None else f"`{o.default}`"
        cells = (f"`{o.name}`", docstrings.plain(o.kind), default, docstrings.plain(o.meaning))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read_experiments() -> dict[str, dict[str, Any]]:
    """The experiment files by name."""
    files = {experiment_name(path): path for path in experiment_files()}
    return {name: yaml.safe_load(path.read_text("utf-8")) for name, path in files.items()}


def parts_of(experiment: dict[str, Any]) -> set[tuple[str, str]]:
    """The (slot, name) of an experiment's parts."""
    slots = dict(experiment.get("learner") or {})
    slots["pretrain"] = (experiment.get("pretrain") or {}).get("objective")
    found = set()
    for slot, chosen in slots.items():
        for part in chosen if isinstance(chosen, list) else [chosen]:
            name = part.get("name") if isinstance(part, dict) else part
            found.add((slot, str(name)))
    return found


def experiments_of(
    entries: Sequence[catalogue.Entry], experiments: dict[str, dict[str, Any]]
) -> str:
    """The experiment files that a method is part of: the command, and what was published."""
    keys = {(entry.kind, entry.name) for entry in entries}
    used = {name: e for name, e in experiments.items() if keys & parts_of(e)}
    if not used:
        return ""
    parts = ["## Experiments"]
    own = [name for name in used if name.partition("/")[0] == entries[0].name]
    parts += [one_experiment(name, used[name]) for name in own]
    if others := [f"`{name}`" for name in used if name not in own]:
        parts.append(f"It is also a part of {', '.join(others)}.")
    return "\n\n".join(parts)


def one_experiment(name: str, experiment: dict[str, Any]) -> str:
    """An experiment file in words."""
    paper = experiment.get("paper") or {}
    parts = [f"```console\n$ graphfsl run {name}\n```"]
    if title := paper.get("title"):
        year, link = paper.get("year", ""), paper.get("link")
        shown = docstrings.plain(str(title))
        parts.append(f"{f'[{shown}]({link})' if link else shown}, {year}.")
    if numbers := experiment.get("published"):
        parts.append(f"Published: {'; '.join(map(published, numbers))}.")
    if deviations := experiment.get("deviations"):
        lines = (f"- {docstrings.plain(str(d))}" for d in deviations)
        parts.append("Deviations from the paper:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def published(number: dict[str, Any]) -> str:
    """5-way 1-shot, unlabeled 30: 78.57 (Lazarou 2021)."""
    known = ("way", "shot", "accuracy", "source")
    other = "".join(f", {k} {v}" for k, v in number.items() if k not in known)
    size = f"{number.get('way', 5)}-way {number.get('shot', 1)}-shot{other}"
    return f"{size}: {number['accuracy']} ({docstrings.plain(str(number.get('source', '')))})"


@dataclass
class Lines:
    """One table of committed results: its setting, its column heads and its rows."""

    setting: str
    heads: list[str]
    rows: list[list[str]]


@cache
def measured_sets() -> list[str]:
    """The data sets that have committed results."""
    files = sorted((experiments_dir() / "results").glob("*.csv"))
    return [file.stem for file in files if is_record(file)]


@cache
def tables_of(data_set: str) -> list[Lines]:
    """The tables that `graphfsl reproduce --table` prints of a data set."""
    found = re.findall(r"^([^|\n]+):\n\n((?:\|.*\n?)+)", table(data_set), re.MULTILINE)
    parted = [(setting, [cells(line) for line in body.splitlines()]) for setting, body in found]
    return [Lines(setting, rows[0], rows[2:]) for setting, rows in parted]


def cells(line: str) -> list[str]:
    """| a | b |  | -> a, b and an empty one."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def results_of(name: str) -> str:
    """The committed results of a method, from the tables of all data sets."""
    tables = [(data_set, found) for data_set in measured_sets() for found in tables_of(data_set)]
    rows = [rows_with(found, name) for _, found in tables]
    parts = [results_table(*where, kept) for where, kept in zip(tables, rows, strict=True) if kept]
    studies = [study for study in committed_studies() if mentions(study, name)]
    if studies:
        links = ", ".join(f"[{title_of(s)}](../studies/{s.stem}.md)" for s in studies)
        parts.append(f"Studies with it: {links}.")
    if not parts:
        return (
            "## Results\n\nNo committed run yet: it is tested against a loop, a closed form or a "
            "reference solver."
        )
    return "\n\n".join(["## Results", *parts])


def rows_with(found: Lines, name: str) -> list[list[str]]:
    """The rows of a table whose method has this part, each with the published numbers below it."""
    kept: list[list[str]] = []
    own = False
    for row in found.rows:
        if not row[0].startswith("published"):
            method = row[0].partition(" ([run]")[0].partition(", *")[0].partition(",")[0]
            own = name in re.split(r" \+ | from ", method)
        if own:
            kept.append(row)
    return kept


def results_table(data_set: str, found: Lines, rows: list[list[str]]) -> str:
    """Some rows of a table, without the columns that are empty in them."""
    used = [0, *(i for i in range(1, len(found.heads)) if any(row[i] for row in rows))]
    lines = [[found.heads[i] for i in used], ["---"] * len(used)]
    lines += [[row[i] for i in used] for row in rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{data_set}, {found.setting.lower()}:\n\n:::{{container}} results\n{unlinked(body)}\n:::"
    )


# Encoders, data sets, experiments, commands


def encoder_page() -> str:
    """All encoders with their options."""
    return "# Encoders\n\n" + catalogue_sections(
        map(catalogue.encoder, ENCODERS), "learner.encoder"
    )


def data_page() -> str:
    """All data sets with their options."""
    return "# Data sets\n\n" + catalogue_sections(
        map(catalogue.data_set, data.names()), "data.name"
    )


def catalogue_sections(entries: Iterable[catalogue.Entry], key: str) -> str:
    """One section for each entry."""
    parts = []
    for entry in entries:
        text = docstrings.to_markdown(docstrings.parse(entry.text), [o.name for o in entry.options])
        parts += [f"## {entry.name}", f"`{key}={entry.name}`", text, option_table(entry.options)]
    return "\n\n".join(part for part in parts if part) + "\n"


def experiment_page() -> str:
    """All experiment files and studies, each with its title."""
    lines = ["| name | paper |", "| --- | --- |"]
    lines += [f"| `{n}` | {docstrings.plain(title)} |" for n, title in catalogue.experiments()]
    studies = ["| name | question |", "| --- | --- |"]
    for path in sorted((experiments_dir() / "ablations").glob("*.yaml")):
        question = yaml.safe_load(path.read_text("utf-8"))["question"]
        studies.append(f"| `{path.stem}` | {docstrings.plain(question)} |")
    return (
        "# Experiments and studies\n\n`graphfsl run NAME` trains and evaluates one of these, and "
        "`graphfsl reproduce PAPER` all of a paper, such as `snell2017`. Each is a YAML file of "
        "the folder `experiments/`.\n\n" + "\n".join(lines) + "\n\n## Studies\n\n"
        "`graphfsl ablate NAME` trains and compares every cell of one of these.\n\n"
        + "\n".join(studies)
        + "\n"
    )


def command_page() -> str:
    """Every command with its arguments and options, as `graphfsl COMMAND --help` has them."""
    from typer.main import get_command

    from graphfsl.cli.main import app

    parts = [
        "# Every command",
        "What `graphfsl COMMAND --help` says, on one page. [Commands at a glance](../commands.md) "
        "shows each in use.",
    ]
    for name, command in sorted(get_command(app).commands.items()):
        text = " ".join((command.help or "").split())
        parts += [f"## graphfsl {name}", docstrings.plain(text)]
        lines = ["| argument or option | meaning |", "| --- | --- |"]
        for parameter in command.params:
            if parameter.name != "help":
                meaning = docstrings.plain(getattr(parameter, "help", None) or "")
                lines.append(f"| {parameter_name(parameter)} | {meaning} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def parameter_name(parameter: Any) -> str:
    """`--out`, `-o` of an option, `RUN` of an argument."""
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name or "").strip("[].").upper()
        return f"`{name}`" if parameter.required else f"`[{name}]`"
    return ", ".join(f"`{flag}`" for flag in parameter.opts)


# Studies


def committed_studies() -> list[Path]:
    """The reports of studies among the committed results."""
    return sorted((experiments_dir() / "results").glob("*.md"))


def title_of(study: Path) -> str:
    """The heading of a study's report."""
    return study.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def mentions(study: Path, name: str) -> bool:
    """Whether a study compares this method."""
    return re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", study.read_text("utf-8")) is not None


def study_page(study: Path) -> str:
    """The report of a study: what was found, and every cell."""
    text = study.read_text("utf-8").replace("&lt;", "<")
    text = re.sub(r"p < ", "p \\\\< ", text)
    head, _, rest = text.partition("\n")
    command = f"```console\n$ graphfsl ablate {study.stem}\n```"
    return f"{head}\n\n{command}\n{in_containers(rest)}"


# API


def api_pages() -> Iterator[tuple[str, str]]:
    """The public names by room."""
    yield (
        "api/graphfsl.md",
        api_page("graphfsl", graphfsl.__all__, "The names of `import graphfsl`."),
    )
    yield "api/core.md", core_page()
    names = [name for name in data.__all__ if name not in graphfsl.__all__]
    yield "api/data.md", api_page("graphfsl.data", names, "Data sets, splits and their samples.")
    yield "api/testing.md", api_page("graphfsl.testing", testing.__all__, TESTING)
    modules = [name for _, name, _ in pkgutil.iter_modules(functional.__path__)]
    public = [name for name in modules if not name.startswith("_")]
    for name in public:
        yield f"api/functional/{name}.md", module_page(f"graphfsl.functional.{name}")
    yield "api/functional.md", functional_page(public)


def core_page() -> str:
    """What the author of a method extends."""
    text = "The contract that methods are written against: one class fills one slot."
    names = [name for name in core.__all__ if name not in graphfsl.__all__]
    return api_page("graphfsl.core", names, text)


def api_page(module: str, names: Sequence[str], text: str) -> str:
    """Chosen names of a module: an overview, then each."""
    home = importlib.import_module(module)
    parts = [f"# {module}", text, "```{eval-rst}\n.. currentmodule:: " + module]
    parts.append(".. autosummary::\n   :nosignatures:\n\n" + "\n".join(f"   {n}" for n in names))
    for name in names:
        kind = "autoclass" if isinstance(getattr(home, name), type) else "autofunction"
        parts.append(f".. {kind}:: {name}")
    return "\n\n".join(parts) + "\n```\n"


def module_page(module: str) -> str:
    """All functions of a module."""
    return f"# {module.rpartition('.')[2]}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"


def functional_page(modules: Sequence[str]) -> str:
    """What each module of the functional room computes."""
    lines = ["| module | what |", "| --- | --- |"]
    for name in modules:
        doc = importlib.import_module(f"graphfsl.functional.{name}").__doc__ or ""
        first = " ".join(doc.strip().partition("\n\n")[0].split())
        lines.append(f"| [`{name}`](functional/{name}.md) | {docstrings.plain(first)} |")
    pages = "\n".join(f"functional/{name}" for name in modules)
    return (
        "# graphfsl.functional\n\nPure, batch-first mathematics that methods share: tensors in, "
        'tensors out. Shapes stand in the annotations: `Float[Tensor, "*B n d"]` is a tensor of '
        "floats with any batch axes, n nodes and d features.\n\n"
        + "\n".join(lines)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    )


# Pages that are written by hand


def for_the_site(text: str, page: Path) -> str:
    """A page as the site shows it."""
    tables = re.compile(r"<!-- table: \w+ -->\n(.*?)<!-- end -->", re.DOTALL)
    text = tables.sub(lambda found: in_containers(found[1]), text)
    return without_repository_links(unlinked(text), page)


def in_containers(text: str) -> str:
    """Each table of results in a box of its own, in which it scrolls."""
    return re.sub(
        r"(?:^\|.*\n?)+",
        lambda rows: f":::{{container}} results\n\n{rows[0]}\n:::\n",
        text,
        flags=re.MULTILINE,
    )


def unlinked(text: str) -> str:
    """([run](…/NAME/results.json)) -> (`NAME`): a page cannot link to a file that is not a page."""
    return re.sub(r"\[run\]\([^)]*results/([\w.]+)/[^)]*\)", r"`\1`", text)


def without_repository_links(text: str, page: Path) -> str:
    """Links from a page to files outside docs/ become the files' names."""

    def name(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(page.parent / link[2].partition("#")[0]))
        inside = path.is_relative_to(ROOT / "docs")
        if inside or not path.exists():
            return link[0]
        shown = path.relative_to(ROOT).as_posix()
        return link[1] if link[1].strip("`") == shown else f"{link[1]} (`{shown}`)"

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#|mailto:)([^)\s]+)\)", name, text)

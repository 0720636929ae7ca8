"""What there is: methods, encoders, data sets and experiments.

Each comes with the type, default and meaning of its options.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphfsl import data
from graphfsl.core import registry
from graphfsl.core.schema import make, signature, words
from graphfsl.io.errors import InputError, unknown
from graphfsl.io.package_data import experiment_files, experiment_name
from graphfsl.nn import ENCODERS

# What the builder and the loaders fill in themselves: no option of a configuration.
FILLED_IN = ("net", "dim", "maps", "shape", "way", "classes", "in_channels", "pixels", "split")

# of the episode in which the work of a method is counted
WAY, QUERIES, DIM, MAPS = 5, 15, 64, (64, 5, 5)


@dataclass(frozen=True)
class Option:
    """One option of a method, encoder or data set.

    Attributes:
        name: as configurations write it.
        kind: the type, in words.
        default: None where it must be given.
        meaning: what its documentation says.
    """

    name: str
    kind: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Entry:
    """A page of the catalogue.

    Attributes:
        name: of the method, encoder or data set.
        kind: the slot, "encoder" or "data set".
        about: where it comes from.
        text: its documentation.
        traits: those that it has.
        options: what it takes.
        computing: parameters and multiply-adds, in words; empty where they were not counted.
    """

    name: str
    kind: str
    about: str
    text: str
    traits: list[str]
    options: list[Option]
    computing: str = ""


USE = {
    "head": "learner.head",
    "graph": "learner.graph",
    "refine": "learner.refine",
    "novelty": "learner.novelty",
    "augment": "learner.augment",
    "acquire": "learner.acquire",
    "adapt": "learner.adapt",
    "pretrain": "pretrain.objective",
    "encoder": "learner.encoder",
}


def page(entry: Entry, width: int = 80) -> str:
    """What `graphfsl methods NAME` prints.

    It is the paper, the equation, each option, and how a command line sets it.
    """
    fold = textwrap.TextWrapper(
        width,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    parts = [
        entry.name + (f" ({', '.join(entry.traits)})" if entry.traits else ""),
        *textwrap.wrap(entry.about, width),
    ]
    parts += textwrap.wrap(entry.computing, width)
    parts += ["", _equation(entry), ""]
    for o in entry.options:
        parts.append(
            f"  {o.name}: "
            f"{o.kind}" + (f" = {o.default}" if o.default is not None else " (must be given)")
        )
        parts += fold.wrap(o.meaning)
    if (where := USE.get(entry.kind)) is not None:
        first = next((f", {o.name}: {o.default or '…'}" for o in entry.options), "")
        parts += [
            "",
            f"{where}={entry.name}" if not first else f"{where}='{{name: {entry.name}{first}}}'",
        ]
    else:
        parts += ["", f"data.name={entry.name}"]
    return "\n".join(parts)


# What a section of a docstring begins with, at the margin.
SECTION = re.compile(r"(?m)^(Args|Attributes|Deviations|Example|Raises|Returns|Shapes|Source):$")


def _equation(entry: Entry) -> str:
    """What the documentation says before it comes to the options."""
    first = SECTION.search(entry.text)
    if first is None:
        return entry.text.partition("\n\n")[0]
    return entry.text[: first.start()].rstrip()


def method(name: str) -> list[Entry]:
    """The methods of a name, one for each slot that it fills.

    Raises:
        InputError: where there is none.
    """
    found = [(slot, n) for slot, n in registry.methods() if n == name]
    if not found:
        known = {*registry.SLOTS, *(n for _, n in registry.methods())}
        raise unknown("method or slot", name, known)
    entries = []
    for slot, _ in found:
        facts = registry.describe(slot, name)
        cls = registry.get(slot, name)
        text = inspect.cleandoc(cls.__doc__ or "")
        entries.append(Entry(name, slot, facts["source"], text, facts["traits"], options(cls)))
    return entries


def with_computing(entry: Entry) -> Entry:
    """The page of a method that works on features, with what it computes in an episode.

    Beside it in the pipeline stands a ProtoNet, whose own products are taken off.
    """
    import torch

    from graphfsl.core.compute import multiply_adds
    from graphfsl.core.episode import Episode
    from graphfsl.core.pipeline import Pipeline

    if entry.kind not in ("head", "graph", "refine", "novelty", "augment"):
        return entry
    cls = registry.get(entry.kind, entry.name)
    nodes = WAY * (1 + QUERIES)
    labels = torch.zeros(1, nodes, WAY)
    labels[0, :WAY] = torch.eye(WAY)

    def count(pipeline: Any, *shape: int) -> int:
        x = torch.rand(1, nodes, *shape, generator=torch.Generator().manual_seed(0))
        episode = Episode(x, labels, WAY, nodes - WAY, relabeled=False)
        return multiply_adds(lambda: pipeline.eval().score_open(episode))

    protonet = registry.get("head", "protonet")
    try:
        given = {"dim": DIM, "way": WAY, "shot": 1, "maps": MAPS, "classes": WAY}
        part: Any = make(cls, {}, entry.name, **given)
        slots = {"head": protonet(), entry.kind: part}
        maps = MAPS if part.wants_maps else (DIM,)
        done = count(Pipeline(**slots), *maps)
        if entry.kind != "head":
            done = max(0, done - count(Pipeline(head=protonet()), DIM))
    except InputError:  # it learns from base features first, works on images, or answers values
        return entry
    parameters = sum(p.numel() for p in part.parameters())
    features = f"{DIM}-d features" if len(maps) == 1 else f"maps {MAPS}"
    words = (
        f"{parameters:,} parameters; {done:,} multiply-adds in a {WAY}-way 1-shot episode with "
        f"{QUERIES} queries a class, of {features}"
    )
    return replace(entry, computing=words)


def encoder(name: str) -> Entry:
    """An encoder by its name.

    Raises:
        InputError: where there is none.
    """
    if name not in ENCODERS:
        raise registry.missing("encoder", name, ENCODERS)
    cls = ENCODERS[name]
    return Entry(
        name, "encoder", encoder_source(name), inspect.cleandoc(cls.__doc__ or ""), [], options(cls)
    )


def encoder_source(name: str) -> str:
    """The first line of an encoder's class."""
    return (ENCODERS[name].__doc__ or "").strip().partition("\n")[0]


def data_set(name: str) -> Entry:
    """A data set by its name.

    Raises:
        InputError: where there is none.
    """
    loader = data.loader(name)
    return Entry(
        name,
        "data set",
        data.about(name),
        inspect.cleandoc(loader.__doc__ or ""),
        [],
        options(loader),
    )


def experiments(word: str = "") -> list[tuple[str, str]]:
    """The name and title of the experiments whose name holds `word`.

    The title is that of the paper, or else the first comment.
    """
    return [
        (name, _title(path))
        for path in experiment_files()
        if word in (name := experiment_name(path))
    ]


def _title(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    title = re.search(r"\btitle: *(.+?)(?:, \w+:|\}|\n)", text)
    return title[1].strip("\"'") if title else text.partition("\n")[0].lstrip("# ")


def options(cls: Callable[..., Any]) -> list[Option]:
    """The options of a class or function that a configuration sets, not what the builder does."""
    known = {k: v for k, v in signature(cls).items() if k not in FILLED_IN}
    defaults = inspect.signature(cls).parameters
    told = meanings(cls.__doc__, tuple(signature(cls)))  # several may share a line
    return [
        Option(
            name,
            words(kind),
            None if required else _shown(defaults[name].default),
            told.get(name, ""),
        )
        for name, (kind, required) in known.items()
    ]


def _shown(default: Any) -> str:
    """A default as YAML writes it."""
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return '""' if default == "" else str(list(default) if isinstance(default, tuple) else default)


def meanings(doc: str | None, names: Iterable[str]) -> dict[str, str]:
    """What a docstring says of each option.

    It stands as "scale: …", or "epochs, batch: …", at the start of a line or sentence, and only
    below "Args:" where there is such a section.
    """
    text = inspect.cleandoc(doc or "")
    if below := re.search(r"(?ms)^Args:\n(.*?)(?=^\S|\Z)", text):
        text = inspect.cleandoc("\n" + below[1])
    any_name = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"
    start = re.compile(rf"(?:^|(?<=[.;] )|(?<=\n))[ ]*((?:{any_name})(?:, (?:{any_name}))*): ")
    found = list(start.finditer(text))
    out: dict[str, str] = {}
    for i, this in enumerate(found):
        end = found[i + 1].start() if i + 1 < len(found) else len(text)
        meaning = " ".join(text[this.end() : end].partition("\n\n")[0].split())
        out |= {name: meaning.removesuffix(".") for name in re.findall(any_name, this[1])}
    return out

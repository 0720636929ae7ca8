"""The commands that list what there is."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from graphfsl.cli.terminal import Json, Plugins, app, new_console, print_table


def _methods() -> list[str]:
    from graphfsl.core import registry

    return sorted({name for _, name in registry.methods()})


@app.command()
def methods(
    name: Annotated[
        str, typer.Argument(help="a method, to see its options; or a slot", autocompletion=_methods)
    ] = "",
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """List the methods that there are, by slot, or show one.

    A method is shown with its equation and its options, their types, defaults and meaning.
    """
    from graphfsl.cli import catalogue
    from graphfsl.core import registry

    if name and name not in registry.SLOTS:
        _pages([catalogue.with_computing(entry) for entry in catalogue.method(name)], as_json)
        return
    rows = [
        registry.describe(slot, method) for slot, method in registry.methods() if name in ("", slot)
    ]
    for row in rows:
        row["paper"] = row["source"].partition(", http")[0]
    print_table(rows, ("slot", "name", "paper"), as_json)


@app.command()
def encoders(
    name: Annotated[str, typer.Argument(help="show this one with its options")] = "",
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """List the encoders that there are, or show one with its options."""
    from graphfsl.cli import catalogue
    from graphfsl.nn import ENCODERS

    if name:
        _pages([catalogue.encoder(name)], as_json)
        return
    print_table(
        [{"name": n, "about": catalogue.encoder_source(n)} for n in ENCODERS],
        ("name", "about"),
        as_json,
    )


@app.command()
def experiments(
    word: Annotated[
        str, typer.Argument(help="only those whose path holds this, such as omniglot or snell2017")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the experiments that `run` and `reproduce` know by name."""
    from graphfsl.cli import catalogue

    print_table(
        [{"name": n, "paper": t} for n, t in catalogue.experiments(word)],
        ("name", "paper"),
        as_json,
    )


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="show this one with its options")] = "",
    as_json: Json = False,
    download: Annotated[str, typer.Option(help="fetch this data set")] = "",
    root: Annotated[
        Path | None, typer.Option(help="where to put it; GRAPHFSL_DATA where it is not given")
    ] = None,
) -> None:
    """List the data sets that there are, or show one with its options.

    --download NAME fetches one, as far as its licence allows.
    """
    from graphfsl import data as sets
    from graphfsl.cli import catalogue

    if download:
        new_console().print(f"{download}: {sets.download(download, root)}")
        return
    if name:
        _pages([catalogue.data_set(name)], as_json)
        return
    rows = [{"name": n, "about": " ".join((sets.about(n)).split())} for n in sets.names()]
    print_table(rows, ("name", "about"), as_json)


def _pages(entries: list[Any], as_json: bool) -> None:
    from graphfsl.cli.catalogue import page

    if as_json:
        print(json.dumps([asdict(e) for e in entries], indent=2))
        return
    width = shutil.get_terminal_size().columns
    print("\n\n".join(page(e, min(width, 120)) for e in entries))

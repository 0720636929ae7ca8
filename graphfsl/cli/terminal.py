"""What all commands share: the app, the arguments that many take, and how they print."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        from graphfsl import __version__

        print(f"graphfsl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="print the version and stop"
        ),
    ] = False,
) -> None:
    """Graph and semi-supervised few-shot learning."""


def experiment_names() -> list[str]:
    """What the shell completes where an experiment is asked for."""
    from graphfsl.io.package_data import experiment_files, experiment_name

    return [name for path in experiment_files() for name in (path.stem, experiment_name(path))]


Experiment = Annotated[
    str,
    typer.Argument(
        help="a file, or a name as `graphfsl experiments` lists them",
        autocompletion=experiment_names,
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="the directory of a trained run")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as episode.way=20 trainer.device=cuda")
]


def _use_plugins(packages: list[str] | None) -> list[str] | None:
    """What `--plugin` names is found from now on: a command has nothing more to do with it."""
    if packages:
        from graphfsl.core.registry import use_plugins

        use_plugins(packages)
    return packages


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        callback=_use_plugins,
        is_eager=True,
        help="a package with methods or encoders of yours; may be given several times",
    ),
]


def checked_out(out: Path | None) -> Path | None:
    """What `--out` names, refused at once where nothing can be written there."""
    if out is not None:
        from graphfsl.io.checkpoint import check_place

        check_place(out)
    return out


def checked_folder(out: Path | None) -> Path | None:
    """The folder that `--out` names, refused at once where a file is there."""
    checked_out(out)
    if out is not None and out.exists() and not out.is_dir():
        from graphfsl.io.errors import InputError

        raise InputError(
            f"cannot write there: {out} is a file where a folder is to be; choose another folder "
            "with -o"
        )
    return out


def checked_file(out: Path | None) -> Path | None:
    """The file that `--out` names, refused at once where a folder is there."""
    if out is not None:
        from graphfsl.io.checkpoint import check_writable

        check_writable(out)
    return out


Out = Annotated[
    Path | None, typer.Option("--out", "-o", callback=checked_folder, help="the folder to write")
]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", callback=checked_file, help="the file to write")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def new_console() -> Any:
    """A console that prints words as they are, and only in the first of several processes."""
    from rich.console import Console

    # A user's [names] are no markup.
    return Console(
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
        quiet=int(os.environ.get("RANK", 0)) > 0,
    )


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Print rows as a table of some columns, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.table import Column, Table

    from graphfsl.io.plain_text import one_line

    table = Table(*(Column(c, overflow="fold", no_wrap=c == "name") for c in columns), box=None)
    for row in rows:
        table.add_row(
            *(one_line(", ".join(v) if isinstance(v := row[c], list) else str(v)) for c in columns)
        )
    new_console().print(table)

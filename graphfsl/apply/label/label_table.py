"""Tables of labels, as people and their programs write them.

The samples of a pool that they mean are found here.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from graphfsl.data.images import written
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import read_regular
from graphfsl.io.plain_text import unguarded

COLUMNS = ("sample", "label")
GIVEN = (
    "given"  # 1 on a line whose label a person gave; `label` writes it, 0 beside its own guesses
)
SEPARATORS = (",", ";", "\t")
BEFORE_HEADER = re.compile(r"\s*|sep=.\s*", re.IGNORECASE)  # a blank line, or Excel's hint
# what programs and our pages write where none is
NO_CLASS = ("nan", "<na>", "none of these", "no label reaches")


def read_labels(path: Path) -> dict[str, str]:
    """Read a table with the columns `sample` and `label`.

    Columns are separated by commas, semicolons or tabs, the text is UTF-8 or UTF-16, and the header
    is in any case, below blank lines or Excel's `sep=;` too. A ' in front of what would be a
    formula, as `write_table` sets it, is taken off.

    Of a table that has a column `given`, as `label` writes it, only lines with 1 there count: a
    guess of an earlier call is no label.

    Args:
        path: of the table.

    Returns:
        Sample -> label, empty for none of the classes. The names of samples stay as they are
        written, blanks included: `samples_meant` finds what they mean.

    Raises:
        InputError: for anything else, for a line with fewer or more fields than the header, for two
            labels of one name, for a label that programs write where there is none, and where no
            line is given.
    """
    lines = iter(_lines(path))
    header = [field.strip().lower() for field in next(lines, (0, []))[1]]
    for column in COLUMNS:
        if header.count(column) != 1:
            has = ", ".join(map(repr, header)) or "none"
            wrong = (
                (f"has column {column!r} twice") if column in header else f"lacks column {column!r}"
            )
            raise InputError(
                f"{path} {wrong}; it must have 'sample' and 'label' once each, and has {has}"
            )
    require(header.count(GIVEN) < 2, f"{path} has column 'given' twice")
    guesses = 0
    found: dict[str, str] = {}
    for number, fields in lines:
        if not any(field.strip() for field in fields):
            continue
        where = f"{path}, line {number}"
        require(
            len(fields) >= len(header),
            f"{where}: {len(fields)} fields below {len(header)} columns; a sample of none of "
            f"the classes has an "
            "empty label behind a separator",
        )
        require(
            not any(field.strip() for field in fields[len(header) :]),
            f"{where}: {len(fields)} fields below {len(header)} columns; a name that holds "
            f"the separator must "
            "stand in quotes",
        )
        if GIVEN in header and not _is_given(fields[header.index(GIVEN)], where):
            guesses += 1
            continue
        name, label = (_cell(fields[header.index(column)], where) for column in COLUMNS)
        label = written(label.strip())
        _check_class(label, where)
        if found.setdefault(name, label) != label:
            raise InputError(
                f"{where}: {name!r} is {found[name]!r} above, {label!r} here; keep one"
            )
    require(
        found or not guesses,
        f"{path}: none of its {guesses:,} lines is given (column 'given'); write 1 there where a "
        "label is yours",
    )
    require(found, f"{path} labels no sample; give each class a line or more")
    return found


def samples_meant(
    path: Path, table: Mapping[str, str], names: Iterable[str], source: Path, called: str
) -> dict[str, str]:
    """The table with the names of the pool's samples in place of its own.

    A name may stand as it is, or with blanks around it, with Windows' separators, `./` or the
    absolute path of `source` before it, and composed (NFC) or not.

    Args:
        path: of the table.
        table: sample -> label.
        names: of the pool's samples.
        source: the pool's folder.
        called: how samples are named, for the error.

    Raises:
        InputError: for a name that is no sample's or several's, and for two labels of one sample.
    """
    alike: dict[str, list[str]] = {}
    for name in (names := set(names)):
        alike.setdefault(_plain(name), []).append(name)
    roots = {_plain(os.path.abspath(source)), _plain(os.path.realpath(source))}
    found: dict[str, str] = {}
    for name, label in table.items():
        meant = [name] if name in names else alike.get(_relative(_plain(name), roots), [])
        require(meant, f"{path}: sample {name!r} is not in {source}; samples are {called}")
        if len(meant) > 1:
            both = " or ".join(map(repr, sorted(meant)))
            raise InputError(
                f"{path}: sample {name!r} may be {both}; write it as the file is called"
            )
        if found.setdefault(meant[0], label) != label:
            raise InputError(
                f"{path}: {name!r} is {meant[0]!r}, which is {found[meant[0]]!r} "
                f"and {label!r}; keep one"
            )
    return found


def _is_given(field: str, where: str) -> bool:
    said = field.strip().lower()
    if said in ("1", "true", "1.0"):
        return True
    require(
        said in ("", "0", "false", "0.0"),
        f"{where}: column 'given' must hold 1 where a label is given, else 0, not {field!r:.40}",
    )
    return False


def _cell(field: str, where: str) -> str:
    text = field.lstrip()
    require(
        text == field or not text.startswith('"'),
        f"{where}: a blank before a quote makes the quote part of the text; take the blank away",
    )
    return unguarded(field)


def _check_class(label: str, where: str) -> None:
    require(
        label.lower() not in NO_CLASS,
        f"{where}: {label!r} is no class; a sample of none of the classes has an empty "
        f"label, one that is not "
        "labeled no line",
    )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(number, fields) of each line, from the header on."""
    lines = list(io.StringIO(_text(path), newline=""))
    skipped = 0
    while skipped < len(lines) and BEFORE_HEADER.fullmatch(lines[skipped]):
        skipped += 1
    lines = lines[skipped:]
    if not lines:
        return []
    reader = csv.reader(lines, delimiter=_separator(lines[0]), strict=True)
    try:
        return [(skipped + reader.line_num, fields) for fields in reader]
    except csv.Error as error:
        number = skipped + reader.line_num
        raise InputError(
            f"{path}, line {number} is not readable ({error}); it must be a CSV table with every "
            f"quote closed"
        ) from None


def _text(path: Path) -> str:
    try:
        data = read_regular(path)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        if b"\0" in data[:2]:  # of a letter in UTF-16 without a mark
            return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
        return data.decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); it must be a table of labels"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a readable UTF-8 file ({error}), nor UTF-16; it must be a table of "
            f"labels"
        ) from None


def _separator(header: str) -> str:
    """The one that sets the columns apart; else the one that the header has most of."""
    for separator in SEPARATORS:
        fields: list[str] = []
        with suppress(csv.Error):  # of what is too long for a field
            fields = next(csv.reader([header], delimiter=separator), [])
        if set(COLUMNS) <= {field.strip().lower() for field in fields}:
            return separator
    return max(SEPARATORS, key=header.count)


def _plain(name: str) -> str:
    """A path without what may be written in several ways."""
    return posixpath.normpath(written(name).strip().replace("\\", "/"))


def _relative(name: str, roots: Iterable[str]) -> str:
    for root in roots:
        if name.startswith(root + "/"):
            return name.removeprefix(root + "/")
    return name

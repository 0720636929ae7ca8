"""Tables of labels as programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphfsl.apply.label.label_table import read_labels, samples_meant
from graphfsl.io.errors import InputError


def names_of(found: dict[str, str], names: list[str], source: str = "in") -> dict[str, str]:
    return samples_meant(Path("few.csv"), found, names, Path(source), "paths")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_tables_as_programs_write_them(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = ["Sample,LABEL ,note", "box/a é.png, cat ,x", " b.png,,y", "", '"c,;\t.png",dog,z']
    text = (
        "\r\n".join(rows[:4]).replace(",", separator)
        + f"\r\n{rows[4][:10]}{separator}dog{separator}z\r\n"
    )
    (tmp_path / "few.csv").write_bytes(text.encode(encoding))
    assert read_labels(tmp_path / "few.csv") == {
        "box/a é.png": "cat",
        " b.png": "",
        "c,;\t.png": "dog",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sample,label\na.png\n", "line 2: 1 fields below 2 columns"),
        (
            "sample,label\na,b.png,cat\n",
            "line 2: 3 fields below 2 columns; a name that holds the separator",
        ),
        ("sample,label,Label\na,b,c\n", "column 'label' twice"),
        ("sample|label\na|b\n", "lacks column 'sample'"),
        ('sample,label\na.png,"cat\nb.png,dog\n', "line 3 is not readable .*every quote closed"),
        ('sample,label\na.png, "cat"\n', "line 2: a blank before a quote"),
        (f"sample,label,{'x' * 131_073}\na.png,cat,\n", "line 1 is not readable"),
        ("sample,label\na.png,None of these\n", "line 2: 'None of these' is no class"),
        ("\n\nsample,label\na.png,NaN\n", "line 4: 'NaN' is no class"),
    ],
)
def test_lines_that_mean_nothing_are_refused(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "few.csv").write_text(text)
    with pytest.raises(InputError, match=line):
        read_labels(tmp_path / "few.csv")


@pytest.mark.parametrize(
    "head",
    [
        "\n \nsample;label\n",
        "sep=;\r\nsample;label\r\n",
        '"Sample";"label";"note, or two, or three"\n',
        "label;sample\r",
    ],
)
def test_headers_as_programs_write_them(tmp_path: Path, head: str) -> None:
    row = "cat;a.png\n" if head.startswith("label") else "a.png;cat" + ";x\n" * ("note" in head)
    (tmp_path / "few.csv").write_bytes((head + row).encode())
    assert read_labels(tmp_path / "few.csv") == {"a.png": "cat"}


def test_names_of_samples_may_be_written_in_several_ways(tmp_path: Path) -> None:
    names = ["box/a é.png", " b.png", "c.png"]
    for written in (
        "box\\a é.png",
        "./box/a é.png",
        "box/a e\u0301.png",
        str(Path("in/box/a é.png").absolute()),
    ):
        assert names_of({written: "x"}, names) == {"box/a é.png": "x"}
    assert names_of({" b.png": "x", "c.png ": "y"}, names) == {" b.png": "x", "c.png": "y"}
    assert names_of({"b.png": "x"}, names) == {" b.png": "x"}
    assert names_of({"b.png": "x", " b.png": "y"}, [*names, "b.png"]) == {
        "b.png": "x",
        " b.png": "y",
    }
    with pytest.raises(InputError, match="may be"):
        names_of({"./b.png": "x"}, [*names, "b.png"])
    with pytest.raises(InputError, match="which is 'x' and 'y'; keep one"):
        names_of({"c.png": "x", "./c.png": "y"}, names)


def test_guesses_of_an_earlier_call_are_no_labels(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = [
        "sample,label,given",
        "a.png,cat,1",
        "b.png,dog,0",
        "c.png,,1",
        "d.png,dog,TRUE",
        "e,f,",
    ]
    table.write_text("\n".join(rows))
    assert read_labels(table) == {"a.png": "cat", "c.png": "", "d.png": "dog"}
    for text, line in (
        ("sample,label,given\na,cat,0\nb,dog,0\n", "none of its 2 lines is given"),
        ("sample,label,given\na,cat,perhaps\n", "line 2: column 'given' must hold 1"),
        ("sample,label,given,given\na,cat,1,1\n", "has column 'given' twice"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=line):
            read_labels(table)

"""`graphfsl suggest`: a table and a sheet of what to label next, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Call
from tests.support.pools import clusters, draw_signs, read_csv, write_csv


def write_pool(x: np.ndarray, path: str = "pool.npz") -> None:
    np.savez(path, features=x.astype(np.float32))


def test_a_folder_without_a_label_and_then_with_some(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    Path("in/broken.png").write_bytes(b"junk")
    code, out, err = call("suggest", "in", "--n", 6, "--neighbors", 4, "-o", "in/next")
    assert (code, err) == (0, ""), err
    assert "6 of 36 samples to label next" in out and "1 not readable" in out
    first = read_csv("in/next/suggest.csv")
    assert [r["rank"] for r in first] == list("123456")
    gains = [float(r["gain"]) for r in first]
    assert gains == sorted(gains, reverse=True) and min(gains) > 0
    assert {truth[r["sample"]] for r in first} == {"bär", "cross", "dash"}
    with Image.open("in/next/sheets/000-label_next.png") as sheet:
        assert sheet.format == "PNG" and np.asarray(sheet).std() > 10

    write_csv("few.csv", {r["sample"]: truth[r["sample"]] for r in first})
    again = call(
        "suggest", "in", "--support", "few.csv", "--n", 12, "--neighbors", 4, "-o", "in/next"
    )
    assert again[0] == 0, again
    named = [r["sample"] for r in read_csv("in/next/suggest.csv")]
    assert len(set(named)) == 12 and not set(named) & {r["sample"] for r in first}
    assert set(named) <= set(truth), "its own sheet is no sample"
    assert not list(Path("in/next").rglob(".*")), "temporary names are gone"
    code, out, err = call("label", "in", "--support", "few.csv", "--neighbors", 4, "-o", "labels")
    assert (code, err) == (0, "") and "labeled" in out


def test_features_have_a_table_and_no_sheet(world: Path, call: Call) -> None:
    x, _ = clusters(4, 10)
    x[7] = np.nan
    write_pool(x)
    code, out, err = call("suggest", "pool.npz", "-o", "next", "--n", 4)
    assert (code, err) == (0, "") and "1 not readable" in out
    assert [p.name for p in Path("next").iterdir()] == ["suggest.csv"]
    assert all(r["sample"] != "7" for r in read_csv("next/suggest.csv"))


def test_coverage_is_said_of_distinct_samples(world: Path, call: Call) -> None:
    """Of 49 samples 40 are one image: its label covers little of what there is."""
    x, _ = clusters(1, 10)
    write_pool(np.concatenate([x, np.repeat(x[:1], 39, 0)]))
    code, out, err = call("suggest", "pool.npz", "-o", "next", "--n", 1, "--neighbors", 2)
    assert (code, err) == (0, "") and "of its 10 distinct samples, and with these" in out
    write_pool(x)
    assert "% of the pool" in call("suggest", "pool.npz", "-o", "other", "--n", 1)[1]


@pytest.mark.parametrize(
    ("support", "options", "says"),
    [
        (None, ("--n", "41"), "only 40 distinct ones have no label"),
        ({"40": "a"}, (), "sample '40' is not in pool.npz"),
        ({"1": "a"}, ("--n", "40"), "only 39 distinct ones"),
        (None, ("--neighbors", "0"), "neighbors must lie between 1 and 1000"),
        (None, ("--alpha", "1"), "alpha must lie between"),
        (None, ("--support", "none.csv"), "none.csv"),
        (None, ("-o", "pool.npz"), "is a file where a folder is to be"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    world: Path,
    call: Call,
    support: dict[str, str] | None,
    options: tuple[str, ...],
    says: str,
) -> None:
    write_pool(clusters(4, 10)[0])
    given: tuple[str, ...] = ()
    if support is not None:
        write_csv("few.csv", support)
        given = ("--support", "few.csv")
    code, out, err = call("suggest", "pool.npz", "-o", "next", "--n", "3", *given, *options)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1
    assert not Path("next").exists()


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.ones((9, 4)), "the same features"),
        (np.full((9, 4), np.nan), "the pool holds no sample"),
    ],
)
def test_features_that_say_nothing_are_refused(
    world: Path, call: Call, x: np.ndarray, says: str
) -> None:
    write_pool(x)
    code, _, err = call("suggest", "pool.npz", "-o", "next", "--n", "2")
    assert code == 2 and says in err and len(err.splitlines()) == 1 and not Path("next").exists()

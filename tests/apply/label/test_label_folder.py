"""The command that labels a folder: its files, and one line for every mistake."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from graphfsl.apply import folder_features as features
from graphfsl.apply.label import pool_files
from tests.support.command import Call
from tests.support.pools import clusters, draw_signs, few, read_csv, two_each, write_csv


def test_a_folder_is_labeled_and_broken_files_are_listed(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    Path("in/box 0/broken.png").write_bytes(b"junk")
    Path("in/empty.JPG").touch()
    Path("in/gone.png").symlink_to("nowhere.png")
    Path("in/notes.txt").write_text("no image")
    write_csv("few.csv", two_each(truth))
    write_csv("truth.csv", truth)
    code, out, err = call(
        "label", "in", "--support", "few.csv", "--truth", "truth.csv", "--neighbors", 4, "-o", "out"
    )
    assert (code, err) == (0, ""), err
    assert "of 30 labeled" in out and "3 not readable" in out and "out/labels.csv" in out
    rows = read_csv("out/labels.csv")
    assert [r["sample"] for r in rows] == sorted(truth)
    assert sum(r["best"] == truth[r["sample"]] for r in rows) >= 33
    for r in rows:
        assert r["confidence"] == "" and 0 <= float(r["none"]) <= 1, (
            "of six labels too few are held out"
        )
        if r["given"] == "1":
            assert r["label"] == truth[r["sample"]] and r["support_1"] == ""
        else:
            assert truth[r["support_1"]] == r["best"] and 0 < float(r["share_1"]) <= 1
    lost = {r["sample"]: r["why"] for r in read_csv("out/unreadable.csv")}
    assert (
        list(lost) == ["box 0/broken.png", "empty.JPG", "gone.png"]
        and "link to nothing" in lost["gone.png"]
    )
    assert "not a readable image" in lost["empty.JPG"]
    sheets = sorted(p.name for p in Path("out/sheets").iterdir())
    assert sheets == ["000-none_of_these.png", "001-bär.png", "002-cross.png", "003-dash.png"]
    with Image.open("out/sheets/002-cross.png") as sheet:
        assert sheet.format == "PNG" and sheet.size[0] > 1000 and np.asarray(sheet).std() > 10
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert (
        ("Accuracy against coverage") in page
        and "box 0/broken.png" in page
        and 'href="sheets/001-bär.png"' in page
    )
    assert page.count("data:image/jpeg") == 4 and page.count("data:image/svg") == 4
    assert not list(Path("out").rglob(".*")), "temporary names are gone"


def test_a_stopped_encoding_goes_on_and_labels_are_read_back(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = draw_signs(world / "in")
    Path("in/zz broken.png").write_bytes(b"junk")
    write_csv("few.csv", {**two_each(truth), "zz broken.png": "dash"})
    encode, most = features.encode, 4  # type: ignore[attr-defined]
    sizes: list[int] = []

    def counting(*args: object) -> torch.Tensor:
        if len(sizes) == most:
            raise KeyboardInterrupt
        sizes.append(len(args[1]))  # type: ignore[arg-type]
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "encode", counting)
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 130
    assert not Path("out").exists()
    sizes, most = [], 99
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 0
    assert sizes == [4, 4, 4, 4, 4, 4, 1], "of 37 files 12 were surely done"
    sizes = []
    assert call("label", "in", "--support", "out/labels.csv", "--chunk", 1, "-o", "again")[0] == 0
    assert not sizes
    before, after = (read_csv(f"{folder}/labels.csv") for folder in ("out", "again"))
    for column in ("label", "given"):
        assert [r[column] for r in before] == [r[column] for r in after]


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_features_are_labeled_by_path_or_number(world: Path, call: Call, ending: str) -> None:
    x, y = clusters(3, 20)
    x[7] = np.nan
    names = [f"{i}.png" if ending == "npz" else str(i) for i in range(60)]
    if ending == "npz":
        np.savez("pool.npz", features=x, labels=y, paths=np.array(names))
    else:
        save_file({"features": x}, "pool.safetensors")
    ids = [i for c in range(3) for i in [i for i in np.flatnonzero(y == c) if i != 7][::8]]
    write_csv("few.csv", {names[i]: f"class {y[i]}" for i in ids})
    write_csv("truth.csv", {n: f"class {c}" for n, c in zip(names[:30], y, strict=False)})
    code, _, err = call("label", f"pool.{ending}", "--support", "few.csv", "--truth", "truth.csv")
    assert (code, err) == (0, ""), err
    rows = read_csv("labels/labels.csv")
    assert len(rows) == 59 and all(
        r["best"] == f"class {y[names.index(r['sample'])]}" for r in rows
    )
    assert (
        "holds NaN" in Path("labels/unreadable.csv").read_text()
        and not Path("labels/sheets").exists()
    )


def test_samples_of_none_are_rows_without_a_label(world: Path, call: Call) -> None:
    x, y = clusters(4, 20, spread=0.3)
    save_file({"features": x}, "pool.safetensors")
    write_csv(
        "few.csv", {str(np.flatnonzero(y == c)[0]): f"c{c}" if c < 3 else "" for c in range(4)}
    )
    assert call("label", "pool.safetensors", "--support", "few.csv", "-o", "out")[0] == 0
    assert [r["label"] for r in read_csv("out/labels.csv")] == [
        "" if c == 3 else f"c{c}" for c in y
    ]
    assert "not calibrated" in Path("out/report.html").read_text()


def test_a_pretrained_encoder_encodes_a_folder(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    from graphfsl.apply.folder_encoder import folder_encoder

    monkeypatch.setattr(pool_files, "folder_encoder", folder_encoder)
    truth = draw_signs(world / "in", each=4)
    write_csv("few.csv", two_each(truth))
    code, _, err = call(
        "label", "in", "--support", "few.csv", "--size", 32, "--neighbors", 3, "-o", "out"
    )
    assert (code, err) == (0, ""), err
    assert sum(r["best"] == truth[r["sample"]] for r in read_csv("out/labels.csv")) >= 10


def test_parquet(world: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clusters(2, 10)
    save_file({"features": x}, "pool.safetensors")
    write_csv("few.csv", {str(np.flatnonzero(y == c)[0]): f"c{c}" for c in range(2)})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        code, _, err = call(
            "label", "pool.safetensors", "--support", "few.csv", "--format", "parquet"
        )
        assert code == 2 and "Parquet needs pyarrow" in err and not Path("labels").exists()
    assert call("label", "pool.safetensors", "--support", "few.csv", "--format", "parquet")[0] == 0
    table = pyarrow.parquet.read_table("labels/labels.parquet").to_pydict()
    assert table["label"] == [f"c{c}" for c in y] and isinstance(table["score"][0], float)


BAD = {
    "no table": (["pool.npz", "--support", "none.csv"], "none.csv cannot be read (No such file"),
    "a folder for a table": (["pool.npz", "--support", "."], "cannot be read (Is a directory"),
    "an encoder of features": (
        ["pool.npz", "--support", "few.csv", "--run", "nowhere"],
        "pool.npz holds features, which nothing encodes; leave --run out",
    ),
    "a size of features": (
        ["pool.npz", "--support", "few.csv", "--size", "32"],
        "pool.npz holds features, which nothing encodes; leave --size out",
    ),
    "not text": (["pool.npz", "--support", "pool.npz"], "pool.npz is not a readable UTF-8 file"),
    "no column": (
        ["pool.npz", "--support", "columns.csv"],
        "lacks column 'label'; it must have 'sample' and 'label'",
    ),
    "no line": (["pool.npz", "--support", "bare.csv"], "bare.csv labels no sample"),
    "two labels": (
        ["pool.npz", "--support", "twice.csv"],
        "twice.csv, line 3: '0' is 'a' above, 'b' here",
    ),
    "unknown sample": (
        ["pool.npz", "--support", "unknown.csv"],
        "sample '99' is not in pool.npz; samples are its",
    ),
    "unknown truth": (
        ["pool.npz", "--support", "few.csv", "--truth", "unknown.csv"],
        "unknown.csv: sample '99' is not",
    ),
    "one class": (
        ["pool.npz", "--support", "single.csv"],
        "the support has 1 class; at least 2 are needed",
    ),
    "unreadable class": (["nan.npz", "--support", "few.csv"], "no sample of class 'a' can be read"),
    "no pool": (
        ["nowhere", "--support", "few.csv"],
        "nowhere does not exist; a pool is a folder of images",
    ),
    "another file": (
        ["few.csv", "--support", "few.csv"],
        "few.csv is neither; a pool is a folder of images",
    ),
    "broken features": (
        ["junk.npz", "--support", "few.csv"],
        "junk.npz is not a readable file of plain arrays",
    ),
    "broken tensors": (
        ["junk.safetensors", "--support", "few.csv"],
        "junk.safetensors is not a readable file",
    ),
    "pickled features": (
        ["pickled.npz", "--support", "few.csv"],
        "pickled.npz is not a readable file of plain arrays",
    ),
    "no features": (
        ["other.npz", "--support", "few.csv"],
        "must hold 'features', floats (n, d), not x int64 (3,)",
    ),
    "equal paths": (["paths.npz", "--support", "few.csv"], "one of `paths` for each of 20 rows"),
    "empty folder": (["empty", "--support", "few.csv"], "empty holds no image; known: .apng"),
    "broken folder": (["broken", "--support", "few.csv"], "none of its 1 images can be read"),
    "format": (["pool.npz", "--support", "few.csv", "--format", "csw"], "did you mean 'csv'"),
    "prior": (["pool.npz", "--support", "few.csv", "--prior", "even"], "unknown prior 'even'"),
    "neighbors": (
        ["pool.npz", "--support", "few.csv", "--neighbors", "0"],
        "neighbors must lie between 1 and 1000",
    ),
    "blocked": (
        ["pool.npz", "--support", "few.csv", "--out", "few.csv"],
        "few.csv is a file where a folder is to be",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line(world: Path, call: Call, case: str) -> None:
    x, y = clusters(2, 10)
    a, b = (str(np.flatnonzero(y == c)[0]) for c in range(2))
    np.savez("pool.npz", features=x)
    np.savez("nan.npz", features=np.where(np.arange(20)[:, None] == int(a), np.nan, x))
    np.savez("other.npz", x=np.arange(3))
    np.savez("paths.npz", features=x, paths=np.array(["a"] * 20))
    np.savez("pickled.npz", features=np.array([{}], dtype=object))
    for name in ("junk.npz", "junk.safetensors", "broken/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"junk")
    Path("empty").mkdir()
    write_csv("few.csv", {a: "a", b: "b"})
    write_csv("single.csv", {a: "a", b: "a"})
    write_csv("unknown.csv", {a: "a", "99": "b"})
    Path("bare.csv").write_text("sample,label\n")
    Path("columns.csv").write_text("sample,class\n0,a\n")
    Path("twice.csv").write_text("sample,label\n0,a\n0,b\n")
    arguments, line = BAD[case]
    code, out, err = call("label", *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and line in err, err
    assert not Path("labels").exists()


def test_twins_of_a_name_stay_apart(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    first, second = list(truth)[:2]
    for name, twin in ((first, "in/é.png"), (second, "in/e\u0301.png")):
        Path(twin).write_bytes(Path("in", name).read_bytes())
    write_csv("few.csv", two_each(truth))
    assert call("label", "in", "--support", "few.csv", "--neighbors", 4, "-o", "out")[0] == 0
    rows = [r["sample"] for r in read_csv("out/labels.csv")]
    assert len(set(rows)) == len(rows) == len(truth) + 2 and {"é.png", "e\u0301.png"} <= set(rows)
    code, _, err = call("label", "in", "--support", "out/labels.csv", "-o", "again")
    assert code == 0, err


def test_equal_files_with_two_labels_are_refused(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    given = two_each(truth)
    name = next(iter(given))
    Path("in/twin.png").write_bytes(Path("in", name).read_bytes())
    for label in ("dash", ""):
        write_csv("few.csv", {**given, "twin.png": label})
        code, _, err = call("label", "in", "--support", "few.csv", "-o", "out")
        assert code == 2 and err.count("\n") == 1 and "the two are equal; keep one label" in err
    write_csv("few.csv", {**given, "twin.png": given[name]})
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 0
    np.savez("pool.npz", features=np.ones((4, 2), np.float32))
    write_csv("few.csv", {"0": "a", "1": "b"})
    assert "the two are equal" in call("label", "pool.npz", "--support", "few.csv")[2]


def test_what_an_earlier_call_left_is_removed(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    write_csv("few.csv", {n: f"old {c}" for n, c in two_each(truth).items()})
    assert call("label", "in", "--support", "few.csv", "-o", "out", "--format", "parquet")[0] == 0
    Path("out/sheets/mine.png").touch()
    write_csv("few.csv", two_each(truth))
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 0
    sheets = sorted(p.name for p in Path("out/sheets").iterdir())
    assert sheets == [
        "000-none_of_these.png",
        "001-bär.png",
        "002-cross.png",
        "003-dash.png",
        "mine.png",
    ]
    assert not Path("out/labels.parquet").exists() and Path("out/labels.csv").exists()


def test_sheets_in_the_pool_are_no_samples(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    write_csv("few.csv", two_each(truth))
    for _ in range(2):
        assert call("label", "in", "--support", "few.csv", "-o", "in/labels")[0] == 0
        Path("in/labels/sheets/7.png").write_bytes(Path("in", next(iter(truth))).read_bytes())
    names = [r["sample"] for r in read_csv("in/labels/labels.csv")]
    assert sorted(names) == sorted([*truth, "labels/sheets/7.png"])


@pytest.mark.parametrize("taken", ["out", "out/sheets", "out/labels.csv", "out/report.html"])
def test_nothing_is_written_where_something_is_in_the_way(
    world: Path, call: Call, taken: str
) -> None:
    write_csv("few.csv", two_each(draw_signs(world / "in")))
    Path(taken).parent.mkdir(exist_ok=True)
    Path(taken).mkdir() if "." in taken else Path(taken).touch()
    before = sorted(Path().rglob("*"))
    code, _, err = call("label", "in", "--support", "few.csv", "-o", "out")
    assert (
        code == 2
        and err.count("\n") == 1
        and (f"{taken} is a f") in err
        and "choose another folder" in err
    )
    assert sorted(Path().rglob("*")) == before


def test_a_confidence_of_members_is_called_so(world: Path, call: Call) -> None:
    x, y = clusters(7, 60, spread=0.9)
    np.savez("pool.npz", features=x[y < 6])
    y = y[y < 6]
    support, label = few(y, 8, 6)
    given = {str(i): f"c{c}" if c < 5 else "" for i, c in zip(support, label, strict=True)}
    for samples in (given, {i: c for i, c in given.items() if c}):
        write_csv("few.csv", samples)
        code, out, err = call("label", "pool.npz", "--support", "few.csv", "-o", "out")
        page = Path("out/report.html").read_text()
        assert code == 0 and "which are called confidence" in page, err
        assert "for a sample of one of the classes, as held-out ones are" in page
        assert re.search(r"median confidence [\d.]+, if of a class\)", out)


def test_what_does_not_count_is_said(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    Path("in/zz broken.png").write_bytes(b"junk")
    given = two_each(truth)
    write_csv("few.csv", {**given, "zz broken.png": "dash", list(truth)[-1]: ""})
    write_csv(
        "truth.csv", {name: {"bär": "Bär", "cross": "plus"}.get(c, c) for name, c in truth.items()}
    )
    code, out, err = call(
        "label", "in", "--support", "few.csv", "--truth", "truth.csv", "--none", 1, "-o", "out"
    )
    assert code == 0, err
    page, line = Path("out/report.html").read_text(), " ".join(out.split())
    assert (
        "1 given labels are of samples that cannot be read"
    ) in line and "5 given labels are not the truth's" in line
    assert (
        "2 classes of the truth have no given label and count as none of these ('Bär', 'plus')"
    ) in line
    assert "no sample is called none of these" in page and "cannot tell what is of none" not in page
    write_csv("truth.csv", given)
    assert call("label", "in", "--support", "few.csv", "--truth", "truth.csv", "-o", "out")[0] == 0
    page = Path("out/report.html").read_text()
    assert ("holds none of the samples that were to be labeled") in page and "nan" not in re.sub(
        "<img[^>]*>", "", page
    )


def test_a_pool_labeled_again_by_its_own_table_gets_the_same_labels(
    world: Path, call: Call
) -> None:
    """Only the labels that were given count; and given labels that the others contradict are
    listed, with those that speak against them.
    """
    x, y = clusters(3, 30, spread=0.5)
    support, label = few(y, 5, 3)
    np.savez("pool.npz", features=x)
    given = {str(i): f"c{c}" for i, c in zip(support, label, strict=True)}
    wrong = str(support[0])
    write_csv("few.csv", {**given, wrong: "c1"})
    code, out, err = call("label", "pool.npz", "--support", "few.csv", "-o", "first")
    assert code == 0, err
    assert "1 given labels doubted (doubts.csv)" in out
    (doubt,) = read_csv("first/doubts.csv")
    assert (doubt["sample"], doubt["label"], doubt["others_say"]) == (wrong, "c1", "c0")
    assert float(doubt["doubt"]) > 0.5
    assert {given[doubt[f"support_{i}"]] for i in (1, 2, 3)} == {"c0"}
    page = Path("first/report.html").read_text(encoding="utf-8")
    assert "Given labels that the others contradict: 1" in page
    assert f"<code>{wrong}</code> was given as c1; the other labels say c0" in page
    code, _, err = call("label", "pool.npz", "--support", "first/labels.csv", "-o", "second")
    assert code == 0, err
    before, again = (read_csv(f"{folder}/labels.csv") for folder in ("first", "second"))
    for column in ("sample", "label", "score", "given"):
        assert [r[column] for r in before] == [r[column] for r in again]


def test_a_users_own_folder_of_sheets_beside_a_table_of_labels_is_part_of_the_pool(
    world: Path, call: Call
) -> None:
    truth = draw_signs(world / "in")
    Path("in/sheets").mkdir()
    first = next(iter(truth))
    Path(f"in/{first}").rename("in/sheets/001-scan.png")
    named = {("sheets/001-scan.png" if n == first else n): c for n, c in truth.items()}
    write_csv("in/labels.csv", two_each(named))
    code, _, err = call("label", "in", "--support", "in/labels.csv", "--neighbors", 4, "-o", "out")
    assert code == 0, err
    assert "sheets/001-scan.png" in {r["sample"] for r in read_csv("out/labels.csv")}


def test_a_truth_of_given_samples_alone_is_told(world: Path, call: Call) -> None:
    x, y = clusters(2, 10)
    np.savez("pool.npz", features=x)
    write_csv("few.csv", {str(np.flatnonzero(y == c)[0]): "ab"[c] for c in range(2)})
    code, out, err = call("label", "pool.npz", "--support", "few.csv", "--truth", "few.csv")
    assert code == 0, err
    assert "the truth names given samples alone, so that nothing is compared" in out

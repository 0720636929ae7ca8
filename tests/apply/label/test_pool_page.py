"""The page about a labeled pool."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from graphfsl.apply.label.label_pool import Labels, label_pool
from graphfsl.apply.label.pool_page import pool_page
from tests.support.command import Call
from tests.support.pools import clusters, few, read_csv, write_csv


def test_a_report_of_extremes() -> None:
    x, y = clusters(2, 10)
    support, label = few(y, 1, 2)
    found = label_pool(x, support, label)
    none = Labels(**{**vars(found), "label": np.where(found.given, found.label, -1)})
    given = np.where(found.given, y, -2)
    for which, truth in (
        (none, y),
        (none, np.full(20, -2)),
        (found, np.full(20, -1)),
        (none, given),
        (none, 0 * y - 1),
    ):
        page = pool_page(
            "<t>", ["`n`"], which, ["<a>", "b"], truth, {0: "s.png"}, [], [("f&", "why")] * 60
        )
        assert (
            "&lt;a&gt;" in page
            and "<a>" not in page
            and "and 10 more" in page
            and "<title>&lt;t&gt;" in page
        )
        assert "nan" not in re.sub("<img[^>]*>", "", page)


def test_the_page_tells_how_many_neighbours_there_were(world: Path, call: Call) -> None:
    np.savez("pool.npz", features=clusters(2, 3)[0])
    write_csv("few.csv", {"0": "a", "1": "b"})
    assert call("label", "pool.npz", "--support", "few.csv", "-o", "out")[0] == 0
    assert "5 nearest neighbours" in Path("out/report.html").read_text()


def test_the_page_claims_what_the_table_beside_it_holds(world: Path, call: Call) -> None:
    x, y = clusters(9, 60, spread=0.6)
    x = np.concatenate(
        [np.pad(x, ((0, 0), (0, 4))), np.pad(clusters(1, 60, dim=4)[0], ((0, 0), (16, 0)))]
    )
    y = np.append(y, np.full(60, 6))
    np.savez("pool.npz", features=x)
    support, label = few(y, 8, 5)
    write_csv("few.csv", {str(i): f"c{c}" for i, c in zip(support, label, strict=True)})
    write_csv("truth.csv", {str(i): f"c{c}" if c < 5 else "" for i, c in enumerate(y)})
    code, _, err = call(
        "label", "pool.npz", "--support", "few.csv", "--truth", "truth.csv", "-o", "out"
    )
    assert (code, err) == (0, ""), err
    page = Path("out/report.html").read_text()
    rows = [r for r in read_csv("out/labels.csv") if r["given"] == "0"]
    truth = {r["sample"]: r["label"] for r in read_csv("truth.csv")}
    right = [r["label"] == truth[r["sample"]] for r in rows]
    labeled, lost = [r for r in rows if r["label"]], [r for r in rows if r["reached"] == "0"]
    none = [r for r in rows if not r["label"] and r["reached"] == "1"]
    foreign, own = (
        [r for r in rows if bool(truth[r["sample"]]) == member] for member in (False, True)
    )
    assert lost and none and len(lost) + len(none) + len(labeled) == len(rows)
    correct = sum(r["label"] == truth[r["sample"]] for r in labeled)
    told = [
        f"{len(labeled)} of {len(rows)} labeled",
        f"{len(none)} none of these, {len(lost)} that no label reaches",
        f"{100 * len(labeled) / len(rows):.1f} % of {len(rows)} samples are labeled",
        f"{100 * correct / len(labeled):.1f} % of these rightly",
        f"No label reaches {100 * len(lost) / len(rows):.1f} %",
        f"{100 * sum(r in none for r in foreign) / len(foreign):.1f} % are found",
        f"{100 * sum(r in none for r in own) / len(own):.1f} % are taken for such",
    ]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for r in rows:
        score = float(r["score"])
        bins.setdefault(max(math.ceil(score * 15) - 1, 0), []).append(
            (score, r["best"] == (truth[r["sample"]] or "?"))
        )
    error = sum(abs(sum(s for s, _ in b) - sum(w for _, w in b)) for b in bins.values()) / len(rows)
    pairs = [
        (float(a["none"]) > float(b["none"])) + (float(a["none"]) == float(b["none"])) / 2
        for a in foreign
        for b in own
    ]
    for line in told:
        assert line in page, line
    stated = re.search(
        r"calibration error of the (\w+): ([\d.]+) points.*?in ([\d.]+) % of "
        r"pairs",
        page,
        re.S,
    )
    assert stated and float(stated[2]) == pytest.approx(100 * error, abs=0.2)
    assert float(stated[3]) == pytest.approx(100 * sum(pairs) / len(pairs), abs=0.1)
    borne_out = all(r["confidence"] == r["score"] for r in rows)
    assert stated[1] == ("confidence" if borne_out else "score") and any(right)
    if borne_out:
        assert f"median confidence {np.median([float(r['score']) for r in labeled]):.2f}" in page
    for c in range(5):
        mine = [r for r in labeled if r["label"] == f"c{c}"]
        hit = sum(truth[r["sample"]] == f"c{c}" for r in mine)
        whole = sum(truth[r["sample"]] == f"c{c}" for r in rows)
        cells = f"<td>8</td><td>{len(mine)}</td><td>{np.median([float(r['score']) for r in mine]):.2f}</td>"  # noqa: E501
        assert cells in page
        assert f"<td>{100 * hit / len(mine):.1f} %</td><td>{100 * hit / whole:.1f} %</td>" in page

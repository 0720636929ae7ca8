"""`graphfsl annotate` on folders that changed, and one line for every mistake."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binom

from graphfsl.apply.annotate import annotate_folder
from graphfsl.apply.annotate.answer_store import AnswerStore
from graphfsl.apply.annotate.pool_model import Label, PoolModel, _at_most
from graphfsl.apply.label.label_pool import label_pool
from graphfsl.apply.label.pool_files import Pool, image_files
from graphfsl.functional.binomial import binomial_interval
from graphfsl.io.errors import InputError
from tests.support.command import Call, posix, refused
from tests.support.labelling import picture_pool, served
from tests.support.pools import clusters, few, write_csv


def without(pool: Pool, gone: set[str]) -> Pool:
    kept = [i for i, name in enumerate(pool.names) if name not in gone]
    return Pool([pool.names[i] for i in kept], pool.x[kept], [pool.images[i] for i in kept])


def renamed(pool: Pool, old: str, new: str) -> Pool:
    i = pool.names.index(old)
    names, images = list(pool.names), list(pool.images)
    images[i] = Path(str(images[i]).removesuffix(old) + new)
    names[i] = new
    return Pool(names, pool.x, images)


def test_files_that_moved_changed_and_went_away_are_noticed(tmp_path: Path) -> None:
    pool, _ = picture_pool(tmp_path / "in")
    with served(tmp_path, pool) as (_, (anna,)):
        a = anna.new_class("a")
        moved, changed, gone, kept = anna.post("deal", count=4)["tiles"]
        for tile in (moved, changed, gone, kept):
            anna.answer(tile, a)
    new = "elsewhere.png"
    shutil.move(tmp_path / "in" / moved["name"], tmp_path / "in" / new)
    shutil.copy(tmp_path / "in" / kept["name"], tmp_path / "in" / changed["name"])
    other = without(renamed(pool, moved["name"], new), {gone["name"]})
    with served(tmp_path, other) as (_, (anna,)):
        told = anna.get("summary")
        assert told["labelled"] == 2
        lines = " ".join(told["notices"])
        assert f"{moved['name']} is {new} now" in lines
        assert f"until it is given again: {changed['name']}" in lines
        assert f"counts again when the image is back: {gone['name']}" in lines
        mine = {tile["name"] for tile in anna.get("grid", view="labelled")["tiles"]}
        assert mine == {new, kept["name"]}
        again = next(
            t for t in anna.get("grid", view="mine")["tiles"] if t["name"] == changed["name"]
        )
        anna.answer(again, a)
        assert anna.get("summary")["labelled"] == 3
    with served(tmp_path, pool) as (_, (anna,)):
        assert anna.get("summary")["labelled"] == 3, "what went away is back, what moved is gone"


@posix
def test_linked_folders_are_followed_once_and_in_no_circle(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/own/b.png", "elsewhere/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    links = {"again": "in/own", "linked": "elsewhere", "twice": "elsewhere", "up": "."}
    for name, target in links.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in", target_is_directory=True)
    files, lost = image_files(tmp_path / "in", None)
    assert files == ["a.png", "linked/c.png", "own/b.png"] and not lost


def test_what_was_exported_is_no_sample_of_the_folder_around_it(tmp_path: Path) -> None:
    pool, truth = picture_pool(tmp_path / "in")
    before, _ = image_files(tmp_path / "in", None)
    with served(tmp_path, pool, out="in/annotations") as (page, (anna,)):
        anna.label_some(truth, [anna.new_class(name) for name in "abcd"], 12)
        assert page.bench.settled()
        for links in (True, False):
            anna.post("export", bar=0.0, links=links)
    assert len(list((tmp_path / "in/annotations/exports").rglob("*.png"))) == 2 * len(before)
    assert image_files(tmp_path / "in", None) == (before, [])


def test_any_number_of_labels_is_taken_over_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotate_folder, "MOST_MARKS", 5)
    pool, truth = picture_pool(tmp_path / "in")
    given = {name: "abcd"[c] for name, c in truth.items()}
    with (
        pytest.raises(InputError, match="has 101 letters"),
        served(tmp_path, pool, given=given | {pool.names[-1]: "x" * 101}),
    ):
        pass
    with served(tmp_path, pool, given=given) as (page, (anna,)):
        assert anna.get("summary")["labelled"] == len(given)
        events = list(page.bench.store.events())
        assert max(len(event.marks) for event in events) == 5
        assert [event.kind for event in events].count("class") == 4, "of the first call none"


def test_answers_of_another_folder_are_refused(tmp_path: Path) -> None:
    pool, _ = picture_pool(tmp_path / "in")
    with served(tmp_path, pool) as (_, (anna,)):
        a = anna.new_class("a")
        for tile in anna.post("deal", count=4)["tiles"]:
            anna.answer(tile, a)
    (tmp_path / "in").rename(tmp_path / "moved")
    other, _ = picture_pool(tmp_path / "in")
    strange = Pool([f"x{name}" for name in other.names], other.x, other.images)
    (tmp_path / "new").mkdir()
    store = AnswerStore(tmp_path / "out/answers.sqlite")
    store.tell("folder", "/elsewhere")
    store.close()
    with (
        pytest.raises(
            InputError, match=r"answers of the folder /elsewhere, of which .* has 0 of 4"
        ),
        served(tmp_path, strange),
    ):
        pass
    with served(tmp_path, other) as (_, (anna,)):  # moved as a whole
        assert anna.get("summary")["labelled"] == 4


def test_two_people_are_asked_a_share_twice_and_leases_end(tmp_path: Path) -> None:
    pool, _truth = picture_pool(tmp_path / "in", each=30)
    clock = [1000.0]
    with served(tmp_path, pool, "anna", "bo", twice=0.25) as (page, (anna, bo)):
        page.bench.dealer._now = lambda: clock[0]
        a, b = anna.new_class("a"), anna.new_class("b")
        changed, dealer = page.bench._changed, page.bench.dealer
        with changed:  # both are dealt from one order
            assert changed.wait_for(lambda: not dealer.wants_more, 60)
        first, second = (who.post("deal", count=30)["tiles"] for who in (anna, bo))
        both = {tile["name"] for tile in first} & {tile["name"] for tile in second}
        assert both == {t["name"] for t in first if page.bench.dealer.is_twice(t["name"])}
        assert 2 <= len(both) <= 15
        for tile in first:
            anna.answer(tile, a)
        disputed = [tile for tile in second if tile["name"] in both]
        for tile in disputed:
            assert "others" not in tile, "the other answer is not shown before one's own"
        bo.answer(disputed[0], b)
        bo.answer(disputed[1], a)
        told = bo.get("summary")
        assert told["agreement"]["samples"] == 2 and told["agreement"]["same"] == 1
        assert told["disagreed"] == 1
        (tile,) = bo.get("grid", view="disagreed")["tiles"]
        assert tile["own"] == b and tile["others"] == {"anna": a}
        bo.answer(tile, a, view="disagreed")
        assert bo.get("summary")["disagreed"] == 0
        assert bo.get("summary")["agreement"]["same"] == 1, "it was said apart"

        left = {t["name"] for t in second if not page.bench.dealer.is_twice(t["name"])}
        assert not left & {tile["name"] for tile in anna.post("deal", count=200)["tiles"]}
        clock[0] += 601
        again = {tile["name"] for tile in anna.post("deal", count=200)["tiles"]}
        assert left <= again, "what is not answered in time is dealt to others"


def test_what_is_kept_gives_the_answers_of_label_pool() -> None:
    """Labels one by one, one taken away: the same answers as from all of them at once."""
    x, y = clusters(4, 40, spread=0.9)
    ids, labels = few(y, 5, 4)
    model = PoolModel(x)
    given = {int(i): Label(f"c{c}", True) for i, c in zip(ids, labels, strict=True)}
    model.predict({**given, 0: Label("c0", True), 1: Label("none", True)})
    for count in (8, 12, 20):
        some = dict(list(given.items())[:count] + list(given.items())[-4:])
        model.predict(some)
    found = model.predict(given)
    expected = label_pool(x, ids, labels)
    free = np.setdiff1d(np.arange(len(x)), ids)
    assert np.array_equal(found.best[free], expected.best[free])
    assert np.abs(found.score - expected.score)[free].max() < 1e-3
    assert found.borne_out == expected.facts["borne out"]
    assert set(found.doubted) == {int(ids[i]) for i in expected.doubted}


def test_only_new_labels_are_propagated() -> None:
    x, _y = clusters(3, 20)
    model = PoolModel(x)
    assert model.columns.hold(range(50)) == 50
    assert model.columns.hold(range(5, 55)) == 5
    blocks = model.columns.blocks()
    whole = PoolModel(x)
    whole.columns.hold(model.columns.samples)
    place = {sample: i for i, sample in enumerate(whole.columns.samples)}
    order = [place[sample] for sample in model.columns.samples]
    torch.testing.assert_close(torch.cat(blocks, 1), torch.cat(whole.columns.blocks(), 1)[:, order])


def test_of_many_labels_each_class_keeps_as_many_as_may_be() -> None:
    labels = {i: Label("c0", i % 2 == 0) for i in range(100)}
    labels |= {100 + i: Label("c1", False) for i in range(5)}
    kept = _at_most(labels, 20)
    assert sum(label.value == "c1" for label in kept.values()) == 5
    assert sum(label.single for label in kept.values()) == 15, "single answers first"


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Exact coverage sum_k P(k) [p in interval(k)] is 95 % or more; R's binom.test(8, 10)."""
    assert binomial_interval(8, 10) == pytest.approx((0.4439045, 0.9747893))
    assert binomial_interval(0, 20) == pytest.approx((0.0, 0.1684335))
    for p in (0.02, 0.5, 0.93):
        intervals = [binomial_interval(k, 50) for k in range(51)]
        inside = [low <= p <= high for low, high in intervals]
        assert binom.pmf(np.arange(51), 50, p) @ inside >= 0.95


def test_mistakes_on_the_command_line_are_one_line(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "empty").mkdir()
    (world / "file").write_text("x")
    np.savez(world / "pool.npz", features=np.eye(9, dtype=np.float32))
    refused(world, call, "annotate", "empty", "--port", 0, says="empty holds no image")
    refused(world, call, "annotate", "pool.npz", "--port", 0, says="is no folder of images")
    refused(world, call, "annotate", "nowhere", says="nowhere is no folder of images")
    refused(
        world, call, "annotate", "empty", "-o", "file", says="is a file where a folder is to be"
    )
    refused(world, call, "annotate", "empty", "--host", "0.0.0.0", says="give --token")
    refused(world, call, "annotate", "empty", "--user", "a/b", says="is no name")
    refused(world, call, "annotate", "empty", "--user", "a", "--user", "a", says="once")
    with pytest.raises(InputError, match="what a program is called here"):
        annotate_folder.named(["label-studio"])
    refused(world, call, "annotate", "empty", "--twice", "7", says="a share from 0 to 1")
    write_csv("few.csv", {"x.png": "none of these"})
    refused(world, call, "annotate", "empty", "--support", "few.csv", says="is no class")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(
            world, call, "annotate", "empty", "--port", port, says="choose another --port"
        )
        assert "in use" in line


def test_without_starlette_a_line_says_what_to_install(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused(world, call, "annotate", ".", says="pip install 'graphfsl[annotate]'")


def test_a_pool_of_extremes(tmp_path: Path) -> None:
    """10,000 classes, names in any script, copies of one image, and accepting everything."""
    pool, _ = picture_pool(tmp_path / "in", classes=2, each=10)
    same = Pool(pool.names, np.ones_like(pool.x), pool.images)
    with served(tmp_path, same) as (page, (anna,)):
        for name in ("日本語", "עברית", "می‌خواهم", "🐈‍⬛", "a" * 100):
            anna.new_class(name)
        bench: Any = page.bench
        for i in range(10_000):
            bench.answers.classes[f"c{i + 5}"] = f"class {i:05d}"
        told = anna.get("classes", text="09999", limit=50)["classes"]
        assert [one["name"] for one in told] == ["class 09999"]
        assert len(anna.get("summary")["first"]) == 200
        tiles = anna.post("deal", count=20)["tiles"]
        assert len(tiles) == 20
        anna.answer(tiles[0], "c0")
        anna.answer(tiles[1], "c10004")
        assert bench.settled() and not bench.failure
        rest = [{"n": tile["n"], "value": "c1", "seen": 0} for tile in tiles[2:]]
        anna.post("answer", answers=rest, view="next")
        assert bench.settled() and not bench.failure
        assert anna.post("deal", count=5)["tiles"] == []
        assert anna.get("summary")["labelled"] == 20

"""The page's server: who is let in, and what an answer becomes."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from graphfsl.apply.annotate.annotate_folder import opened
from graphfsl.apply.annotate.guard import Keys
from graphfsl.apply.label.label_table import read_labels
from graphfsl.io.errors import InputError
from tests.support.labelling import HOME, picture_pool, served
from tests.support.pools import read_csv


@pytest.fixture
def pool(tmp_path: Path) -> tuple[Any, dict[str, int]]:
    return picture_pool(tmp_path / "in")


def test_a_pool_is_labelled_and_the_rest_follows(tmp_path: Path, pool: Any) -> None:
    pool, truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        classes = [anna.new_class(name) for name in ("=1+1", "b", "ç", "d")]
        anna.label_some(truth, classes, 12)
        assert page.bench.settled()
        told = anna.get("summary", bar=0)
        assert told["labelled"] == 12 and told["sure"] == 36 and not told["notices"]
        right = 0
        for c, own in enumerate(classes):
            for tile in anna.get("grid", view="class", of=own)["tiles"]:
                right += truth[tile["name"]] == c
        assert right >= 46, "the clusters lie far apart"
    table = read_labels(tmp_path / "out/answers.csv")
    names = ("=1+1", "b", "ç", "d")
    assert len(table) == 12
    assert all(names[truth[sample]] == label for sample, label in table.items())
    assert all(row["how"] == "single" for row in read_csv(str(tmp_path / "out/answers.csv")))


def test_a_restart_goes_on_where_it_was(tmp_path: Path, pool: Any) -> None:
    pool, _truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        assert page.bench.settled()
        own = anna.new_class("a")
        tiles = anna.post("deal", count=6)["tiles"]
        anna.post("screen", samples=[tile["n"] for tile in tiles], cursor=2)
        anna.answer(tiles[0], own)
        anna.answer(tiles[1], "none")
        anna.answer(tiles[2], "skip")
    with served(tmp_path, pool) as (page, (anna,)):
        screen = anna.get("screen")
        assert [tile["n"] for tile in screen["tiles"]] == [tile["n"] for tile in tiles]
        assert [tile["own"] for tile in screen["tiles"]] == [own, "none", "skip", None, None, None]
        assert screen["cursor"] == 2 and anna.get("summary")["labelled"] == 2
        dealt = {tile["n"] for tile in anna.post("deal", count=40)["tiles"]}
        assert not dealt & {tile["n"] for tile in tiles[:3]}
        anna.post("undo")
        anna.post("undo")
        assert anna.get("summary")["labelled"] == 1
        assert [event["undone"] for event in anna.get("history")["events"]][-2:] == [False, False]


def test_each_answer_says_how_it_came(tmp_path: Path, pool: Any) -> None:
    pool, _truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        a, b = anna.new_class("a"), anna.new_class("b")
        first, second, third, *more = anna.post("deal", count=6)["tiles"]
        assert anna.answer(first, a)["how"] == "single"
        assert anna.answer(second, b, bulk=True)["how"] == "bulk"
        assert anna.answer(third, b, view="like")["how"] == "correction"
        several = [{"n": tile["n"], "value": a, "seen": 0} for tile in more]
        told = anna.post("answer", answers=several, view="next")["tiles"]
        assert {tile["how"] for tile in told} == {"bulk"}
        again = anna.get("grid", view="mine")["tiles"]
        changed = next(tile for tile in again if tile["n"] == first["n"])
        assert anna.answer(changed, b)["how"] == "correction"
        assert page.bench.settled()
        assert page.bench.state.predictions.used == 6
        labels = page.bench._labels()
        assert sum(label.single for label in labels.values()) == 0, "only single answers calibrate"


def test_two_tabs_do_not_overwrite_each_other(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0]) as (_page, (anna,)):
        a, b = anna.new_class("a"), anna.new_class("b")
        tile = anna.post("deal", count=1)["tiles"][0]
        anna.answer(tile, a)
        late = [{"n": tile["n"], "value": b, "seen": tile["seen"]}]
        refused = anna.post("answer", 409, answers=late, view="next")
        assert refused["tiles"][0]["own"] == a, "the other tab is shown what there is"
        anna.answer(refused["tiles"][0], b)
        assert anna.get("grid", view="mine")["tiles"][0]["own"] == b


def test_a_repeated_request_is_one_answer(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0]) as (page, (anna,)):
        a = anna.new_class("a")
        tile = anna.post("deal", count=1)["tiles"][0]
        body = {"answers": [{"n": tile["n"], "value": a, "seen": 0}], "request": "once"}
        assert anna.post("answer", **body) == anna.post("answer", **body)
        assert len(list(page.bench.store.events())) == 2


def test_a_class_is_renamed_merged_deleted_and_each_undone(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0]) as (_page, (anna,)):
        a, b = anna.new_class("a"), anna.new_class("b")
        tile = anna.post("deal", count=1)["tiles"][0]
        anna.answer(tile, a)
        anna.post("class", action="rename", **{"class": a}, name="ä")
        assert anna.post("class", 400, action="rename", **{"class": b}, name="a\u0308")["error"]
        anna.post("class", action="merge", **{"class": a}, into=b)
        assert anna.get("grid", view="mine")["tiles"][0]["own"] == b
        anna.post("class", action="delete", **{"class": b})
        assert anna.get("summary")["labelled"] == 0
        for _ in range(3):
            anna.post("undo")
        assert [one["name"] for one in anna.get("classes")["classes"]] == ["a", "b"]
        assert anna.get("grid", view="mine")["tiles"][0]["own"] == a


def with_audit(page: Any, anna: Any, truth: Any, count: int) -> tuple[list[str], int]:
    """Four classes, twelve labels, and an audit of so many samples that has begun."""
    classes = [anna.new_class(name) for name in "abcd"]
    anna.label_some(truth, classes, 12)
    assert page.bench.settled()
    return classes, anna.post("audit", count=count)["audit"]


def test_an_audit_is_blind_and_of_the_predictions_when_it_began(tmp_path: Path, pool: Any) -> None:
    pool, truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        anna.post("audit", 400, count=5)
        classes = [anna.new_class(name) for name in "abcd"]
        anna.label_some(truth, classes, 12)
        assert page.bench.settled()
        audit = anna.post("audit", count=8)["audit"]
        tiles = anna.get("grid", view="audit")["tiles"]
        asked = {tile["n"] for tile in tiles}
        assert len(tiles) == 8 and all("guess" not in tile for tile in tiles)
        assert page.bench.settled()
        for view in ("unlabelled", "class"):
            shown = anna.get("grid", view=view, limit=200)["tiles"]
            assert not asked & {tile["n"] for tile in shown}, "nobody sees their predictions"
        assert not asked & {tile["n"] for tile in anna.post("deal", count=40)["tiles"]}
        for i, tile in enumerate(tiles):
            value = classes[truth[tile["name"]]] if i else "none"
            assert anna.answer(tile, value, view="audit", audit=audit)["how"] == "audit"
        told = anna.get("summary")["audit"]
        assert told["judged"] == 8 and told["right"] <= 7 and told["population"] == 36
        assert told["low"] < told["accuracy"] < told["high"]
        outside = anna.post("deal", count=1)["tiles"][0]
        given = [{"n": outside["n"], "value": "none", "seen": 0}]
        anna.post("answer", 400, answers=given, audit=audit, view="audit")


def test_an_audit_ends_though_a_sample_of_it_was_answered_elsewhere(
    tmp_path: Path, pool: Any
) -> None:
    """On a screen that was there before; such an answer is not blind, and does not count."""
    pool, truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        classes, audit = with_audit(page, anna, truth, 5)
        first, *others = anna.get("grid", view="audit")["tiles"]
        anna.answer(first, classes[truth[first["name"]]])
        assert first["n"] not in {t["n"] for t in anna.get("grid", view="audit")["tiles"]}
        for tile in others:
            anna.answer(tile, classes[truth[tile["name"]]], view="audit", audit=audit)
        told = anna.get("summary")["audit"]
        assert not told["open"] and (told["judged"], told["elsewhere"]) == (4, 1)


def test_undoing_an_answer_of_an_audit_shows_no_prediction(tmp_path: Path, pool: Any) -> None:
    pool, truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        classes, audit = with_audit(page, anna, truth, 5)
        tile = anna.get("grid", view="audit")["tiles"][0]
        anna.answer(tile, classes[0], view="audit", audit=audit)
        assert page.bench.settled()
        (shown,) = anna.post("undo", view="next")["tiles"]
        assert shown["n"] == tile["n"] and "guess" not in shown


def test_a_file_that_went_away_can_be_skipped_and_is_not_exported(
    tmp_path: Path, pool: Any
) -> None:
    pool, truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        classes, audit = with_audit(page, anna, truth, 2)
        gone, there = anna.get("grid", view="audit")["tiles"]
        pool.images[gone["n"]].unlink()
        given = [{"n": gone["n"], "value": classes[0], "seen": 0}]
        refused = anna.post("answer", 400, answers=given, view="audit", audit=audit)
        assert "cannot be read any more" in refused["error"]
        anna.answer(gone, "skip", view="audit", audit=audit)
        anna.answer(there, classes[truth[there["name"]]], view="audit", audit=audit)
        assert not anna.get("summary")["audit"]["open"]
        for links in (True, False):
            told = anna.post("export", bar=0.0, links=links)
            assert (told["given"] + told["predicted"], told["gone"]) == (47, 1)
            images = list((Path(told["folder"]) / "images").rglob("*.png"))
            assert len(images) == 47 and all(image.is_file() for image in images)
    pool.images[gone["n"]].write_bytes(pool.images[there["n"]].read_bytes())
    with served(tmp_path, pool) as (_page, (anna,)):
        assert not anna.get("summary")["notices"], "nothing was said of what was in it"


def test_undoing_never_gives_two_classes_one_name(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0], "anna", "bo") as (_page, (anna, bo)):
        first = anna.new_class("a")
        anna.post("class", **{"action": "delete", "class": first})
        bo.new_class("a")
        assert "there is another class 'a' meanwhile" in anna.post("undo", 400)["error"]
        (other,) = bo.get("classes")["classes"]
        bo.post("class", **{"action": "rename", "class": other["class"], "name": "b"})
        anna.post("undo")
        assert [one["name"] for one in anna.get("classes")["classes"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("answer", {"answers": [1, 2]}),
        ("answer", {"answers": "abc"}),
        ("answer", {"answers": {"n": 0, "value": "skip"}}),
        ("deal", {"count": 1e400}),
        ("deal", {"shown": 5}),
        ("class", {"action": "class", "name": None}),
        ("export", {"bar": 10**400}),
    ],
)
def test_a_request_of_another_shape_is_refused_in_a_line(
    tmp_path: Path, pool: Any, action: str, body: dict[str, Any]
) -> None:
    with served(tmp_path, pool[0]) as (page, (anna,)):
        headers = {"origin": HOME, "content-type": "application/json"}
        asked = f"{anna.path}api/{action}"
        told = anna.client.post(asked, content=json.dumps(body), headers=headers)
        assert told.status_code == 400 and "\n" not in told.json()["error"]
        assert not list(page.bench.store.events())


def test_members_filters_neighbours_and_what_is_doubted(tmp_path: Path, pool: Any) -> None:
    pool, truth = pool
    with served(tmp_path, pool) as (page, (anna,)):
        classes = [anna.new_class(name) for name in "abcd"]
        anna.label_some(truth, classes, 20)
        wrong = anna.get("grid", view="mine")["tiles"][0]
        other = classes[(truth[wrong["name"]] + 1) % 4]
        anna.answer(wrong, other)
        assert page.bench.settled()
        surest = anna.get("grid", view="class", of=classes[0], order="sure")
        least = anna.get("grid", view="class", of=classes[0], order="unsure")
        free = [tile for tile in surest["tiles"] if tile["guess"]]
        assert free[0]["score"] >= free[-1]["score"]
        assert least["tiles"][0]["score"] == free[-1]["score"]
        doubted = anna.get("grid", view="doubted")["tiles"]
        assert doubted[0]["n"] == wrong["n"]
        assert doubted[0]["doubt"]["says"] == classes[truth[wrong["name"]]]
        band = anna.get("grid", view="unlabelled", low=0.5, high=0.9)["tiles"]
        assert all(0.5 <= tile["score"] <= 0.9 for tile in band)
        like = anna.get("grid", view="like", sample=wrong["n"], limit=8)["tiles"]
        assert like[0]["n"] == wrong["n"]
        kinds = [truth[tile["name"]] for tile in like]
        assert kinds.count(kinds[0]) >= 7, "neighbours are of one cluster"
        assert anna.get("grid", view="labelled", of=classes[1])["total"] > 0


def test_pictures_are_encoded_anew_and_asked_for_by_number(tmp_path: Path, pool: Any) -> None:
    pool, _ = pool
    secret = b"words in a comment of the file"
    info = Image.Exif()
    info[0x9286] = secret.decode()
    Image.new("RGB", (3000, 1500), "red").save(pool.images[0], "JPEG", exif=info)
    pool.images[1].unlink()
    with served(tmp_path, pool) as (_, (anna,)):
        for kind, side in (("small", 256), ("large", 1600)):
            answer = anna.client.get(f"{anna.path}picture/0/{kind}")
            assert answer.headers["content-type"] == "image/jpeg"
            assert secret not in answer.content
            with Image.open(io.BytesIO(answer.content)) as image:
                assert image.size == (side, side // 2) and not image.getexif()
                assert np.asarray(image)[0, 0, 0] > 200
        for path in ("1/small", "9999/small", "-1/small", "0/../../etc/passwd", "0/huge"):
            assert anna.client.get(f"{anna.path}picture/{path}").status_code == 404
        names = ("../web.py", "..%2fweb.py", "%2e%2e/guard.py", "page.html", "answers.sqlite")
        for name in names:
            assert anna.client.get(f"{anna.path}{name}").status_code in (401, 404)
        given = [{"n": 1, "value": "none", "seen": 0}]
        assert "cannot be read any more" in anna.post("answer", 400, answers=given)["error"]


def test_the_token_becomes_a_cookie_and_leaves_the_address(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0], "anna", "bo b") as (page, _people):
        client = TestClient(page.app, base_url=HOME, follow_redirects=False)
        answer = client.get(page.addresses["bo b"])
        assert answer.status_code == 303 and answer.headers["location"] == "/u/bo%20b/"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/u/bo%20b/" in cookie
        assert client.get("/u/bo%20b/").status_code == 200
        for path in ("/u/anna/", "/u/anna/api/summary", "/u/cy/", "/u/anna/page.js"):
            assert client.get(path).status_code == 401, "a cookie is of one person"
        theirs = page.addresses["anna"].partition("token=")[2]
        assert client.get(f"/u/bo%20b/?token={theirs}").status_code == 403
        client.cookies.clear()
        for path in ("/u/bo%20b/", "/u/bo%20b/picture/0/small", "/u/bo%20b/api/screen"):
            assert client.get(path).status_code == 401, "without a token nothing is shown"


def test_other_sites_and_other_names_are_refused(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0]) as (_page, (anna,)):
        path, body = f"{anna.path}api/class", {"action": "class", "name": "evil"}

        def post(**headers: str) -> int:
            sent = {"origin": HOME, **{k.replace("_", "-"): v for k, v in headers.items()}}
            content = b'{"action": "class", "name": "evil"}'
            sent = {k: v for k, v in {"content-type": "application/json", **sent}.items() if v}
            return anna.client.post(path, content=content, headers=sent).status_code

        assert post(origin="http://evil.example") == 403
        assert post(origin="null") == 403
        assert post(origin="") == 403
        assert post(origin="http://127.0.0.1:1") == 403
        assert post(content_type="text/plain") == 415
        assert post(content_type="application/x-www-form-urlencoded") == 415
        assert post(host="evil.example:8765", origin="http://evil.example:8765") == 421
        assert anna.client.put(path, json=body, headers={"origin": HOME}).status_code == 405
        for host in (
            "evil.example",
            "evil.example:8765",
            "127.0.0.1",
            "127.0.0.1:80",
            "10.0.0.1:8765",
        ):
            assert anna.client.get(anna.path, headers={"host": host}).status_code == 421
        assert not anna.get("classes")["classes"]
        page_headers = anna.client.get(anna.path).headers
        assert "default-src 'none'; script-src 'self'" in page_headers["content-security-policy"]
        assert page_headers["referrer-policy"] == "no-referrer"
        assert page_headers["x-content-type-options"] == "nosniff"


def test_the_page_runs_nothing_inline_and_asks_no_other_site(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0]) as (_, (anna,)):
        html = anna.client.get(anna.path).text
        script = anna.client.get(f"{anna.path}page.js").text
        looks = anna.client.get(f"{anna.path}page.css").text
    assert "<style" not in html and " style=" not in html and " onclick" not in html
    assert html.count("<script") == 1 and 'src="page.js"' in html
    assert "innerHTML" not in script and "eval(" not in script
    assert "http://" not in html + script + looks and "https://" not in html + script + looks


WRONG_ANSWERS: list[dict[str, Any]] = [
    {"answers": []},
    {"answers": [{"n": -1, "value": "none"}]},
    {"answers": [{"n": True, "value": "none"}]},
    {"answers": [{"n": 10**9, "value": "none"}]},
    {"answers": [{"n": 0, "value": "c7"}]},
    {"answers": [{"n": 0, "value": ["none"]}]},
    {"answers": [{"n": 0, "value": "none"}, {"n": 0, "value": "none"}]},
    {"answers": [{"n": 0, "value": "none"}], "view": "elsewhere"},
    {"answers": [{"n": 0, "value": "none"}], "audit": 3},
    {"answers": 3},
    {},
]


def test_an_answer_that_cannot_be_is_one_line_and_not_written(tmp_path: Path, pool: Any) -> None:
    with served(tmp_path, pool[0]) as (page, (anna,)):
        for body in WRONG_ANSWERS:
            told = anna.post("answer", 400, **body)
            assert len(told["error"].splitlines()) == 1, body
        assert not list(page.bench.store.events())


def test_another_machine_needs_a_token() -> None:
    with pytest.raises(InputError, match=r"--host 0.0.0.0 .* give --token"):
        Keys(None, "0.0.0.0")
    with pytest.raises(InputError, match="16 or more"):
        Keys("short", "127.0.0.1")
    assert Keys("long enough a token", "0.0.0.0").of("a") != Keys(None, "::1").of("a")


def test_the_address_for_other_machines_holds_the_name_of_this_one(
    tmp_path: Path, pool: Any
) -> None:
    """No other machine reaches this one as 0.0.0.0."""
    keys = Keys("long enough a token", "0.0.0.0")
    with opened(tmp_path / "in", tmp_path, pool[0], ["bo"], keys, host="0.0.0.0") as page:
        address, home = page.addresses["bo"], f"http://{socket.gethostname()}:8765"
        assert address.startswith(f"{home}/u/bo/?token=") and page.predictions.startswith(home)
        assert TestClient(page.app, base_url=home).get(address).status_code == 200

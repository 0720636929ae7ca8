"""The page in a real browser: everything by keyboard, and what it looks like to others.

It needs Debian's chromium, and is skipped without it.
"""

from __future__ import annotations

import importlib.resources
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from graphfsl.apply.annotate.annotate_folder import listening, opened
from graphfsl.apply.annotate.guard import Keys
from tests.support.labelling import picture_pool
from tests.support.pools import read_csv

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt install chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SOON = 30  # seconds


@contextmanager
def serving(root: Path, pool: Any, *users: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """The page at a free port of this machine, until the block ends."""
    import uvicorn

    (root / "out").mkdir(exist_ok=True)
    keys = Keys(None, "127.0.0.1")
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with opened(root / "in", root / "out", pool, users, keys, port=port, twice=0.5) as page:
            config = uvicorn.Config(page.app, log_level="error", lifespan="off")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield page, page.addresses
            finally:
                server.should_exit = True
                thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def tab(browser: Any, address: str, width: int = 1280, height: int = 860, **options: Any) -> Any:
    """A window of its own at an address; it must ask no other site, and have no error."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    home = address.partition("/u/")[0]
    page.on("request", lambda asked: wrong.extend([asked.url] * (not asked.url.startswith(home))))
    page.goto(address)
    page.wait_for_selector(".tile")
    yield page
    until(page, "!state.tiles.some((tile) => tile.pending)")
    context.close()
    assert not wrong


def until(page: Any, condition: str) -> None:
    """Wait for a condition in the page. Its policy forbids Playwright's own way, to run a text."""
    end = time.monotonic() + SOON
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"not within {SOON} s: {condition}"
        time.sleep(0.01)


def new_class(page: Any, name: str) -> None:
    """Answer the sample under the cursor by a class that is made for it."""
    page.keyboard.press("/")
    until(page, "document.getElementById('chooser').open")
    page.keyboard.type(name)
    until(page, "state.choices.some((one) => one.make)")
    page.keyboard.press("Enter")
    until(page, "!document.getElementById('chooser').open")


def cursor(page: Any) -> Any:
    return page.evaluate("({...state.tiles[state.cursor], box: null})")


def label_by_keys(page: Any, truth: dict[str, int], names: list[str], count: int) -> None:
    """Answer so many samples by keys alone."""
    for _ in range(count):
        until(page, "state.tiles[state.cursor] && state.tiles[state.cursor].own === null")
        name = names[truth[cursor(page)["name"]]]
        known = page.evaluate("state.first.map((one) => one.name)")
        if name in known:
            page.keyboard.press(str(known.index(name) + 1))
        else:
            new_class(page, name)


def test_a_hundred_pictures_by_keyboard_alone(chromium: Any, tmp_path: Path) -> None:
    pool, truth = picture_pool(tmp_path / "in", 5, 24)
    names = ["rot", "blau", "grün", "gelb", "紫"]
    with serving(tmp_path, pool, "anna") as (served, addresses):
        assert served.bench.settled()
        with tab(chromium, addresses["anna"]) as page:
            assert "token" not in page.url
            page.keyboard.press("v")
            until(page, "state.view === 'unlabelled' && state.tiles.length === 60")
            label_by_keys(page, truth, names, 8)
            until(page, "!state.tiles.some((tile) => tile.pending)")
            until(page, "state.summary.ready")  # so that the order is another one
            for shown in (61, 120):
                page.locator("#more").click()
                until(page, f"state.tiles.length >= {shown}")
                if page.evaluate("document.getElementById('more').hidden"):
                    break
            assert page.evaluate("new Set(state.tiles.map((tile) => tile.n)).size") == 120
            page.keyboard.press("Escape")
            until(page, "state.view === 'next' && !state.turning")
            label_by_keys(page, truth, names, 92)
            until(page, "!state.tiles.some((tile) => tile.pending)")
            last = page.evaluate("state.tiles.map((tile) => tile.n)")
            end = time.monotonic() + SOON
            while [tile["n"] for tile in served.bench.restored("anna")["tiles"]] != last:
                assert time.monotonic() < end, "the last screen is not kept"
                time.sleep(0.05)
    rows = read_csv(str(tmp_path / "out/answers.csv"))
    assert len(rows) == 100
    assert all(names[truth[row["sample"]]] == row["label"] for row in rows)

    with serving(tmp_path, pool, "anna") as (_, addresses):
        with tab(chromium, addresses["anna"]) as page:  # a restart shows the same screen
            assert page.evaluate("state.tiles.map((tile) => tile.n)") == last


def test_undo_merge_filters_and_zoom(chromium: Any, tmp_path: Path) -> None:
    pool, truth = picture_pool(tmp_path / "in")
    names = list("abcd")
    with serving(tmp_path, pool, "anna") as (served, addresses):
        assert served.bench.settled()
        with tab(chromium, addresses["anna"]) as page:
            label_by_keys(page, truth, names, 12)
            until(page, "!state.tiles.some((tile) => tile.pending)")
            tile = cursor(page)
            page.keyboard.press("x")
            until(page, f"state.tiles.some((t) => t.n === {tile['n']} && t.seen)")
            page.keyboard.press("u")
            until(page, f"state.tiles[state.cursor].n === {tile['n']}")
            assert cursor(page)["own"] is None

            page.keyboard.press(" ")
            until(page, "document.getElementById('zoom-picture').naturalWidth > 300")
            page.keyboard.press("s")
            page.keyboard.press(" ")
            assert not page.evaluate("document.getElementById('zoom').open")

            page.keyboard.press("ArrowRight")
            before = page.evaluate("state.cursor")
            page.keyboard.press("Shift+ArrowRight")
            assert page.evaluate("[...state.selected]") == [before, before + 1]
            page.keyboard.press("Escape")

            page.keyboard.press("v")
            until(page, "state.view === 'unlabelled' && state.tiles.length === 36")
            page.fill("#high", "0.5")
            page.locator("#high").press("Tab")
            until(page, "state.tiles.every((tile) => tile.score <= 0.5)")
            page.keyboard.press("Escape")
            until(page, "state.view === 'next' && !state.turning")
            page.keyboard.press("m")  # the band of scores is of the other view alone
            until(page, "state.view === 'like' && state.tiles.length === 48")
            page.keyboard.press("Escape")

            page.locator("[aria-label='Look through a']").focus()
            page.keyboard.press("Enter")
            until(page, "state.view === 'class' && state.sections.length > 1")
            assert page.locator(".section-name").all_inner_texts()[0].lower() == "the least sure"

            page.locator("[aria-label='Rename, merge or delete a']").focus()
            page.keyboard.press("Enter")
            page.locator("#editor-merge").press("Enter")
            until(page, "document.getElementById('chooser').open")
            page.keyboard.type("b")
            until(page, "state.choices.length === 1")
            page.keyboard.press("Enter")
            until(page, "state.first.map((one) => one.name).sort().join('') === 'bcd'")
            page.keyboard.press("u")
            until(page, "state.first.map((one) => one.name).sort().join('') === 'abcd'")

            page.keyboard.press("Escape")
            until(page, "state.view === 'next' && state.ahead.length > 0 && state.summary.ready")
            page.locator("#open-audit").click()
            page.fill("#audit-count", "30")
            page.locator("#audit-count").press("Enter")
            until(page, "state.view === 'audit' && state.tiles.length === 30")
            asked = set(page.evaluate("state.tiles.map((tile) => tile.n)"))
            page.keyboard.press("Escape")
            until(page, "state.view === 'next' && !state.turning")
            shown = page.evaluate("[...state.tiles, ...state.ahead].map((tile) => tile.n)")
            assert not asked & set(shown), "what was dealt before is asked blind now"


def test_two_people_do_not_get_the_same_but_a_share(chromium: Any, tmp_path: Path) -> None:
    pool, truth = picture_pool(tmp_path / "in")
    with serving(tmp_path, pool, "anna", "bo") as (served, addresses):
        assert served.bench.settled()
        with tab(chromium, addresses["anna"]) as anna, tab(chromium, addresses["bo"]) as bo:
            twice = served.bench.dealer.is_twice
            shown = [set(page.evaluate("state.tiles.map((t) => t.name)")) for page in (anna, bo)]
            assert shown[0] & shown[1] and all(map(twice, shown[0] & shown[1]))
            label_by_keys(anna, truth, list("abcd"), 16)
            until(bo, "state.first.length === 4")
            label_by_keys(bo, truth, list("abcd"), 16)
            until(bo, "!state.tiles.some((tile) => tile.pending)")
        told = served.bench.summary("anna")
        assert told["agreement"]["samples"] == told["agreement"]["same"] > 2
        assert told["disagreed"] == 0


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_focus_and_contrast(chromium: Any, tmp_path: Path, width: int, scheme: str) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="no axe-playwright-python")
    axe = next(Path(str(importlib.resources.files(package))).rglob("axe.min.js")).read_text()
    pool, truth = picture_pool(tmp_path / "in")
    options = {"color_scheme": scheme, "has_touch": width < 500}
    with serving(tmp_path, pool, "anna") as (_, addresses):
        with tab(chromium, addresses["anna"], width, **options) as page:
            label_by_keys(page, truth, list("abcd"), 10)
            time.sleep(0.6)  # until colours stand still
            page.evaluate(axe)
            reach = "document.getElementById('new-class').getBoundingClientRect().bottom"
            assert page.evaluate(f"{reach} <= window.innerHeight"), "without scrolling"
            for dialog in ("", "chooser", "editor", "audit", "export", "history", "help"):
                if dialog:
                    page.evaluate(f"document.getElementById('{dialog}').showModal()")
                found = page.evaluate("axe.run().then((told) => told.violations)")
                told = [(v["id"], [node["html"][:90] for node in v["nodes"]][:3]) for v in found]
                assert not told, json.dumps([dialog, told], indent=1)
                if dialog:
                    page.evaluate(f"document.getElementById('{dialog}').close()")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, "nothing sticks out"

"""A small pool of pictures, served as `graphfsl annotate` serves it, and people who ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from graphfsl.apply.annotate.annotate_folder import Served, opened
from graphfsl.apply.annotate.guard import Keys
from graphfsl.apply.annotate.web import own_path
from graphfsl.apply.label.pool_files import Pool
from tests.support.pools import clusters

HOME = "http://127.0.0.1:8765"
COLOURS = ("#b03030", "#3060b0", "#309040", "#c0a020", "#703090")


def picture_pool(root: Path, classes: int = 4, each: int = 12) -> tuple[Pool, dict[str, int]]:
    """Pictures below `root`, features that tell their classes, and the class of each name."""
    x, y = clusters(classes, each)
    rng = np.random.default_rng(1)
    names = [f"{i % 3}/é {i:03d}.png" for i in range(len(y))]
    for name, c in zip(names, y, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (24, 18), COLOURS[c % len(COLOURS)])
        image.putpixel((int(rng.integers(24)), int(rng.integers(18))), (255, 255, 255))
        image.putpixel((int(rng.integers(24)), int(rng.integers(18))), (0, 0, 0))
        image.save(root / name)
    pool = Pool(names, x, [root / name for name in names])
    return pool, {name: int(c) for name, c in zip(names, y, strict=True)}


@dataclass
class Person:
    """Somebody at the page, who asks as its script does."""

    client: TestClient
    user: str

    @property
    def path(self) -> str:
        return own_path(self.user)

    def get(self, question: str, **fields: Any) -> Any:
        answer = self.client.get(f"{self.path}api/{question}", params=fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, what: str, status: int = 200, /, **body: Any) -> Any:
        headers = {"origin": HOME}
        answer = self.client.post(f"{self.path}api/{what}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def new_class(self, name: str) -> str:
        return str(self.post("class", action="class", name=name)["class"])

    def answer(self, tile: dict[str, Any], value: str, **fields: Any) -> dict[str, Any]:
        given = [{"n": tile["n"], "value": value, "seen": tile["seen"]}]
        told = self.post("answer", answers=given, **{"view": "next", **fields})
        return dict(told["tiles"][0])

    def label_some(self, truth: dict[str, int], classes: list[str], count: int) -> None:
        """Answer dealt samples by their true classes."""
        while count:
            tiles = self.post("deal", count=min(count, 10))["tiles"]
            assert tiles
            for tile in tiles:
                self.answer(tile, classes[truth[tile["name"]]])
            count -= len(tiles)


@contextmanager
def served(
    root: Path, pool: Pool, *users: str, out: str = "out", **options: Any
) -> Iterator[tuple[Served, list[Person]]]:
    """The page of a pool, and its people, who have opened their addresses."""
    names = list(users) or ["anna"]
    (root / out).mkdir(exist_ok=True)
    with opened(root / "in", root / out, pool, names, Keys(None, "127.0.0.1"), **options) as page:
        people = []
        for user in names:
            client = TestClient(page.app, base_url=HOME)
            assert client.get(page.addresses[user]).status_code == 200
            people.append(Person(client, user))
        yield page, people

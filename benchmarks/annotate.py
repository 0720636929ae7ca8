"""What the labelling page is worth: answers of a scripted person, times, audits, and kills.

`python -m benchmarks.annotate person --data ROOT` labels CIFAR-FS validation (16 classes of 600
images, EfficientNet-Lite0 at 112 pixels) through the page's own addresses, by a person who errs in
2 %, in the order in which the page deals and in a random one. `audits` asks how often the audit's
interval covers the truth, `times` how long 10,000 images take, `million` a graph of a million
samples, `keys` how long the page takes in Debian's chromium (pip install playwright) from a key to
its repaint, `kills` whether an acknowledged answer can be lost.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.peak_memory import peak_memory
from benchmarks.pool import synthetic
from graphfsl import data
from graphfsl.apply.annotate.annotate_folder import opened
from graphfsl.apply.annotate.answer_store import AnswerStore
from graphfsl.apply.annotate.guard import Keys
from graphfsl.apply.annotate.label_columns import LabelColumns
from graphfsl.apply.annotate.pool_model import ALPHA
from graphfsl.apply.annotate.web import own_path
from graphfsl.apply.folder_encoder import folder_encoder
from graphfsl.apply.label.pool_files import Pool
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.sparse_propagation import both_ways, symmetric_sparse
from graphfsl.loops.feature_cache import cached_features

HOME = "http://127.0.0.1:8765"
ERRS = 0.02  # how often the person is wrong
MANY = 50  # labels a class, against which answers are held
GOALS = (0.80, 0.85, 0.90)
STEP = 16  # answers between two looks at the pool


class Person:
    """Somebody at the page, who knows the classes and errs now and then."""

    def __init__(
        self, page: Any, pool: Pool, y: np.ndarray, names: Sequence[str], seed: int
    ) -> None:
        from starlette.testclient import TestClient

        self.client, self.y = TestClient(page.app, base_url=HOME), y
        ((self.user, address),) = page.addresses.items()
        self.client.get(address)
        self.rng = np.random.default_rng(seed)
        self.own = [self.post("class", action="class", name=name)["class"] for name in names]

    def post(self, what: str, /, **body: Any) -> Any:
        where = f"{own_path(self.user)}api/{what}"
        answer = self.client.post(where, json=body, headers={"origin": HOME})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def says(self, n: int) -> str:
        c = int(self.y[n])
        if self.rng.random() < ERRS:
            c = (c + int(self.rng.integers(1, len(self.own)))) % len(self.own)
        return str(self.own[c])

    def answer(self, n: int, view: str = "next") -> None:
        self.post("answer", answers=[{"n": n, "value": self.says(n), "seen": 0}], view=view)


@contextmanager
def opened_pool(pool: Pool, root: Path) -> Iterator[Any]:
    keys = Keys(None, "127.0.0.1")
    with (
        tempfile.TemporaryDirectory() as out,
        opened(root, Path(out), pool, ["person"], keys) as page,
    ):
        assert page.bench.settled(600)
        yield page


def cifar(split: str, root: str, folder: Path, each: int) -> tuple[Pool, np.ndarray, list[str]]:
    """Images of CIFAR-FS as files and features, their classes, and these classes' names."""
    images = data.load("cifar_fs", split, root=root)
    y = images.y.numpy()
    kept = np.concatenate([np.flatnonzero(y == c)[:each] for c in range(y.max() + 1)])
    learner, transform, *_ = folder_encoder("efficientnet_lite0", None, None)
    assert isinstance(learner, Pipeline)
    learner.encoder.size = 112  # type: ignore[assignment]
    x = cached_features(learner, images, transform).x.numpy()[kept]
    names = [f"{i:05d}.png" for i in range(len(kept))]
    for name, i in zip(names, kept, strict=True):
        Image.fromarray(images.x[i].permute(1, 2, 0).numpy()).save(folder / name)
    return Pool(names, x, [folder / name for name in names]), y[kept], list(images.classes)


def accuracy(bench: Any, y: np.ndarray) -> float:
    """The share of all samples, labelled and predicted, that have their true class."""
    assert bench.settled(600)
    return float((bench._kinds() == y).mean())


def await_order(bench: Any) -> None:
    """Until as many samples are ordered as the page keeps ahead: a person takes longer to look."""
    with bench._changed:
        assert bench._changed.wait_for(lambda: not bench.dealer.wants_more, 600)


def curve(
    pool: Pool, y: np.ndarray, names: Sequence[str], dealt: bool, seed: int, goal: float
) -> Any:
    """Accuracy after each STEP answers, until the highest goal is reached."""
    folder = pool.images[0].parent
    found: list[float] = []
    with opened_pool(pool, folder) as page:
        person = Person(page, pool, y, names, seed)
        order = iter(np.random.default_rng(seed).permutation(len(y)).tolist())
        while not found or (found[-1] < goal and len(found) * STEP < MANY * len(names)):
            if dealt:
                await_order(page.bench)
                samples = [tile["n"] for tile in person.post("deal", count=STEP)["tiles"]]
            else:
                samples = [next(order) for _ in range(STEP)]
            for n in samples:
                person.answer(n)
            found.append(accuracy(page.bench, y))
    return found


def full(pool: Pool, y: np.ndarray, names: Sequence[str], seed: int) -> float:
    """Accuracy with MANY random labels a class, given at once."""
    with opened_pool(pool, pool.images[0].parent) as page:
        person = Person(page, pool, y, names, seed)
        rng = np.random.default_rng(seed)
        for c in range(len(names)):
            some = rng.choice(np.flatnonzero(y == c), MANY, replace=False).tolist()
            answers = [{"n": n, "value": person.says(n), "seen": 0} for n in some]
            person.post("answer", answers=answers, view="next")
        return accuracy(page.bench, y)


def person(root: str, split: str, each: int, seeds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pool, y, names = cifar(split, root, Path(folder), each)
        tops = [full(pool, y, names, seed) for seed in range(seeds)]
        top = float(np.mean(tops))
        print(f"{len(y):,} images, {len(names)} classes of {split}; the person errs in {ERRS:.0%}")
        print(f"with {MANY} random labels a class: {100 * top:.1f} % right")
        for called, dealt in (("as the page deals", True), ("in random order", False)):
            curves = [
                curve(pool, y, names, dealt, seed, GOALS[-1] * top)
                for seed in range(1 if dealt else seeds)
            ]
            for goal in GOALS:
                needed = [reached(one, goal * top) for one in curves]
                print(f"{called}: {goal:.0%} of it after {words(needed)} answers")


def reached(found: Sequence[float], goal: float) -> int | None:
    """How many answers there were when the goal was reached for good."""
    for i in range(len(found)):
        if found[i] >= goal:
            return (i + 1) * STEP
    return None


def words(needed: Sequence[int | None]) -> str:
    if None in needed:
        return f"more than {MANY} a class"
    told = [n for n in needed if n is not None]
    return f"{np.mean(told):.0f}" + (f" ({min(told)} to {max(told)})" if len(told) > 1 else "")


def audits(draws: int, count: int) -> None:
    """How often the interval of an audit holds the true share, over pools of Gaussian classes."""
    covered = 0
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "0.png"
        Image.new("RGB", (8, 8)).save(image)
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            means, y = rng.standard_normal((5, 8)), rng.integers(0, 5, 400)
            x = (means[y] + rng.uniform(0.6, 1.6) * rng.standard_normal((400, 8))).astype(
                np.float32
            )
            pool = Pool([f"{i}.png" for i in range(400)], x, [image] * 400)
            with opened_pool(pool, Path(folder)) as page:
                who = Person(page, pool, y, list("abcde"), draw)
                for tile in who.post("deal", count=25)["tiles"]:
                    who.answer(tile["n"])
                assert page.bench.settled(600)
                free = page.bench.given == -2
                true = float((page.bench._kinds() == y)[free].mean())
                audit = who.post("audit", count=count)["audit"]
                where = f"{own_path(who.user)}api/grid"
                asked = who.client.get(where, params={"view": "audit", "limit": 200}).json()
                for tile in asked["tiles"]:
                    answers = [{"n": tile["n"], "value": who.says(tile["n"]), "seen": 0}]
                    who.post("answer", answers=answers, view="audit", audit=audit)
                told = page.bench.summary(who.user)["audit"]
                covered += told["low"] <= true <= told["high"]
                assert told["judged"] == count
    print(f"{covered} of {draws} audits of {count} samples hold the true accuracy")


def times(n: int) -> None:
    """From a started server to its first screen, and from new labels to predictions."""
    x, y = synthetic(n)
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{i:06d}.png" for i in range(n)]
        rng = np.random.default_rng(0)
        for name in names:
            noise = rng.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(noise).save(Path(folder) / name)
        pool = Pool(names, x, [Path(folder) / name for name in names])
        with tempfile.TemporaryDirectory() as out:
            begun = time.perf_counter()
            keys = Keys(None, "127.0.0.1")
            with opened(Path(folder), Path(out), pool, ["person"], keys) as page:
                who = Person(page, pool, y, [f"class {c}" for c in range(16)], 0)
                tiles = who.post("deal", count=24)["tiles"]
                for tile in tiles:
                    where = f"{own_path(who.user)}picture/{tile['n']}/small"
                    assert who.client.get(where).status_code == 200
                print(
                    f"{n:,} images: a first screen of 24 with its pictures after "
                    f"{time.perf_counter() - begun:.2f} s"
                )
                page.bench.settled(600)
                print(f"samples ordered after {time.perf_counter() - begun:.1f} s")
                y %= 16
                seconds, answered = [], []
                for _ in range(20):
                    for tile in who.post("deal", count=16)["tiles"]:
                        start = time.perf_counter()
                        who.answer(tile["n"])
                        answered.append(time.perf_counter() - start)
                    page.bench.settled(600)
                    seconds.append(page.bench.state.seconds)
                print(
                    f"16 labels more are predicted from within {max(seconds):.2f} s (median "
                    f"{np.median(seconds):.2f} s), with up to 320"
                )
                print(
                    f"an answer is on the disk and acknowledged within "
                    f"{1000 * np.quantile(answered, 0.95):.0f} ms (95 %)"
                )
                print(f"memory of the process at most {peak_memory() / 1024:.2f} GB")


def million(n: int) -> None:
    """Columns of a graph with ten edges a node, of which most are near in the order."""
    g = torch.Generator().manual_seed(0)
    near = torch.randint(1, 200, (n, 10), generator=g)
    far = torch.randint(0, n, (n,), generator=g)
    ends = (torch.arange(n)[:, None] + near) % n
    ends[:, 0] = far
    edges = torch.stack([torch.arange(n).repeat_interleave(10), ends.flatten()])
    s = symmetric_sparse(both_ways(edges, torch.rand(len(edges[0]), generator=g), n))
    columns = LabelColumns(s, torch.arange(n), ALPHA)
    known: list[int] = []
    for new in (1, 4, 16):
        known += torch.randint(0, n, (new,), generator=g).tolist()
        start, start_cpu = time.perf_counter(), time.process_time()
        columns.hold(known)
        print(
            f"{n:,} samples: {new} new labels propagated in {time.perf_counter() - start:.1f} s "
            f"({time.process_time() - start_cpu:.1f} s of processors) with "
            f"{torch.get_num_threads()} threads"
        )
    print(f"memory of the process at most {peak_memory() / 1024:.2f} GB")


KILLED = """
import sys
from pathlib import Path
import numpy as np
from graphfsl.apply.annotate import annotate_folder
from graphfsl.apply.label.pool_files import Pool
folder, out = map(Path, sys.argv[1:])
names = sorted(p.name for p in folder.iterdir())
x = np.random.default_rng(0).standard_normal((len(names), 8)).astype(np.float32)
pool = Pool(names, x, [folder / name for name in names])
annotate_folder.read_pool = lambda *_: pool
annotate_folder.annotate(folder, out, lambda line: print(line, flush=True), ["p"], port=0)
"""


def small_images(root: Path, count: int) -> Path:
    """A folder of so many images, no two of which are alike."""
    folder = root / "in"
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (i % 256, i // 256, 0)).save(folder / f"{i:05d}.png")
    return folder


WATCH = """() => { window.times = []; document.addEventListener("keydown", () => {
    const begun = performance.now();
    requestAnimationFrame(() => setTimeout(() => times.push(performance.now() - begun)));
}, true); }"""


def keys(count: int) -> None:
    """From a key that answers to its repaint, in a browser with a pool of so many images."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as root, sync_playwright() as driver:
        server, address = started(small_images(Path(root), count), Path(root) / "out")
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector(".tile")
        for name in ("a", "b"):
            for key in ("/", name, "Enter"):
                page.keyboard.press(key)
                time.sleep(0.5)
        page.evaluate(WATCH)
        for i in range(100):
            page.keyboard.press("12"[i % 2])
            time.sleep(0.1)
        found = page.evaluate("times")
        print(
            f"{count:,} images: from a key to its repaint {np.median(found):.0f} ms (median), "
            f"{np.quantile(found, 0.95):.0f} ms (95 %), {len(found)} keys"
        )
        browser.close()
        server.kill()
        server.wait()


def kills(times: int) -> None:
    """The whole server is killed while a script labels over HTTP."""
    rng, acknowledged = np.random.default_rng(0), 0
    with tempfile.TemporaryDirectory() as root:
        folder, out = small_images(Path(root), 2000), Path(root) / "out"  # more than are answered
        for wait in rng.uniform(0.1, 1.5, times):
            acknowledged += killed_once(folder, out, float(wait))
            store = AnswerStore(out / "answers.sqlite")
            kept = sum(len(event.marks) for event in store.events())
            store.close()
            assert kept >= acknowledged, (kept, acknowledged)
            print(f"killed after {wait:.2f} s: {acknowledged} answers acknowledged, {kept} kept")


def started(folder: Path, out: Path) -> tuple[subprocess.Popen[str], str]:
    """A server of a folder, and the address that it prints."""
    command = [sys.executable, "-c", KILLED, str(folder), str(out)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, re.findall(r"http://\S+", server.stdout.readline())[0]


def killed_once(folder: Path, out: Path, wait: float) -> int:
    server, address = started(folder, out)
    home, _, token = address.partition("?token=")
    port = re.findall(r":(\d+)/", home)[0]
    origin, cookie = f"http://127.0.0.1:{port}", f"graphfsl-{port}={token}"
    sent = {"origin": origin, "cookie": cookie, "content-type": "application/json"}

    def post(what: str, **body: Any) -> Any:
        content = json.dumps(body).encode()
        asked = urllib.request.Request(f"{home}api/{what}", content, sent)
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)

    threading.Timer(wait, server.send_signal, [signal.SIGKILL]).start()
    count = 0
    try:
        while True:
            for tile in post("deal", count=5)["tiles"]:
                post("answer", answers=[{"n": tile["n"], "value": "none", "seen": 0}])
                count += 1
    except (OSError, ValueError, HTTPException):  # an answer of which a part came is none
        server.wait()
    return count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["person", "audits", "times", "million", "keys", "kills"])
    parser.add_argument("--data", metavar="ROOT")
    parser.add_argument("--split", default="val")
    parser.add_argument("--each", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    if options.what == "person":
        person(options.data, options.split, options.each, options.seeds)
    elif options.what == "audits":
        audits(options.count or 100, 100)
    elif options.what == "times":
        times(options.count or 10_000)
    elif options.what == "million":
        million(options.count or 1_000_000)
    elif options.what == "keys":
        keys(options.count or 10_000)
    else:
        kills(options.count or 10)


if __name__ == "__main__":
    main()

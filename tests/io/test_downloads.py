"""Downloads from a server that is slow, wrong, or not there: the whole file, or one line and
nothing half-written.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Omniglot

from graphfsl.data import cifar, load
from graphfsl.data.sets import cifar_fs, cub, omniglot
from graphfsl.io import downloads as network
from graphfsl.io.downloads import extract, fetch
from tests.support.refusal import refused
from tests.support.set_files import CASES, write_binary, write_images

CONTENT = np.random.default_rng(0).bytes(300_000)
HALF = len(CONTENT) // 2
ATTEMPTS = 3
PAGE = b"\n<!DOCTYPE html><html><body>please log in</body></html>"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers each request in the next of `modes`, the last of them for good, and notes which
    ranges were asked for.

    ok, no range (ignores it), truncated (half of what it announces), truncated no range, stalls
    (half, then nothing), silent (not even a header), html, html as zip, shifted (another range), or
    a status such as 404.
    """

    daemon_threads = True
    modes: list[str]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.modes = ["ok"]
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.files = {"/set.zip": CONTENT}
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        mode = self.server.modes.pop(0) if len(self.server.modes) > 1 else self.server.modes[0]
        asked, content = self.headers["Range"], self.server.files[self.path]
        self.server.ranges.append(asked)
        self.server.paths.append(self.path)
        start = (
            int(asked.removeprefix("bytes=").removesuffix("-"))
            if asked and "no range" not in mode
            else 0
        )
        if mode.isdigit() or start >= len(content):
            return self.send_error(int(mode) if mode.isdigit() else 416)
        if mode == "silent":
            self.server.released.wait(20)
            return None
        body = PAGE if mode.startswith("html") else content[start:]
        self.send_response(206 if start else 200)
        self.send_header(
            "Content-Type", "text/html; charset=utf-8" if mode == "html" else "application/zip"
        )
        self.send_header("Content-Length", str(len(body)))
        if start:
            first = start - 1 if mode == "shifted" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(
            body[: -(-len(body) // 2)] if "truncated" in mode or mode == "stalls" else body
        )
        self.wfile.flush()
        if mode == "stalls":
            self.server.released.wait(20)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(network, "PAUSE", 0.0)
    monkeypatch.setattr(network, "ATTEMPTS", ATTEMPTS)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TIMEOUT", 1.0)


def visible(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, the locks aside."""
    return {
        p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.endswith(".lock")
    }


# ---- fetch ----


@pytest.mark.parametrize(
    ("modes", "ranges"),
    [
        (["ok"], [None]),
        (["no range"], [None]),
        (["truncated", "ok"], [None, f"bytes={HALF}-"]),
        (["truncated", "truncated", "ok"], [None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]),
        (["truncated", "no range"], [None, f"bytes={HALF}-"]),
        (["truncated", "shifted", "ok"], [None, f"bytes={HALF}-", None]),
        (["stalls", "ok"], [None, f"bytes={HALF}-"]),
        (["silent", "ok"], [None, None]),
        (["503", "429", "ok"], [None, None, None]),
    ],
    ids=str,
)
def test_fetch_has_the_whole_file_in_the_end(
    server: Server, impatient: None, tmp_path: Path, modes: list[str], ranges: list[str | None]
) -> None:
    server.modes = modes
    folder = tmp_path / "a new" / "root"
    assert fetch(f"{server.url}/set.zip", folder, md5(CONTENT)) == folder / "set.zip"
    assert visible(folder) == {"set.zip": CONTENT} and server.ranges == ranges
    fetch(f"{server.url}/set.zip", folder, md5(CONTENT))
    assert server.ranges == ranges, "what is there is not asked for again"


@pytest.mark.parametrize(
    ("mode", "words", "requests", "left"),
    [
        (
            "truncated",
            ("ended after", f"of {len(CONTENT)} bytes", "the same command goes on"),
            ATTEMPTS,
            None,
        ),
        ("stalls", ("broke off", "timed out"), ATTEMPTS, None),
        ("silent", ("did not answer", "timed out"), ATTEMPTS, {}),
        ("500", ("500 Internal Server Error",), ATTEMPTS, {}),
        ("404", ("404 Not Found",), 1, {}),
        ("403", ("403 Forbidden",), 1, {}),
        ("html", ("HTML page",), 1, {}),
        ("html as zip", ("HTML page",), 1, {}),
    ],
)
def test_fetch_says_what_to_do_by_hand(
    server: Server,
    impatient: None,
    tmp_path: Path,
    mode: str,
    words: tuple[str, ...],
    requests: int,
    left: dict[str, bytes] | None,
) -> None:
    server.modes = [mode]
    url = f"{server.url}/set.zip"
    with refused(
        "set.zip could not be downloaded",
        "by hand",
        url,
        str(tmp_path / "root"),
        md5(CONTENT),
        *words,
    ):
        fetch(url, tmp_path / "root", md5(CONTENT))
    assert len(server.ranges) == requests
    found = visible(tmp_path / "root")
    if left is not None:
        assert found == left
        return
    kept = found.pop("set.zip.part")
    assert not found and CONTENT.startswith(kept) and len(kept) > HALF, (
        "each attempt went on where the last one ended"
    )
    server.modes = ["ok"]
    fetch(url, tmp_path / "root", md5(CONTENT))
    assert server.ranges[-1] == f"bytes={len(kept)}-" and visible(tmp_path / "root") == {
        "set.zip": CONTENT
    }


def test_a_server_that_never_resumes_is_given_up(server: Server, tmp_path: Path) -> None:
    server.modes = ["truncated no range"]
    with refused("ended after", f"{HALF} of {len(CONTENT)}"):
        fetch(f"{server.url}/set.zip", tmp_path, md5(CONTENT))
    assert visible(tmp_path) == {"set.zip.part": CONTENT[:HALF]}, "it was begun anew, not appended"


def test_wrong_bytes_are_removed(server: Server, tmp_path: Path) -> None:
    with refused("has the md5", md5(CONTENT), "removed", "by hand", md5(b"other")):
        fetch(f"{server.url}/set.zip", tmp_path, md5(b"other"))
    assert visible(tmp_path) == {}


def test_nobody_listens_and_no_such_host(server: Server, tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1/set.zip", "http://host.invalid/set.zip"):
        with refused("no connection", url, "by hand", str(tmp_path), md5(CONTENT)):
            fetch(url, tmp_path, md5(CONTENT))
        assert visible(tmp_path) == {}


def test_a_complete_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    fetch(f"{server.url}/set.zip", tmp_path, md5(CONTENT))
    assert visible(tmp_path) == {"set.zip": CONTENT} and server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_too_long_is_begun_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT + b"more")
    fetch(f"{server.url}/set.zip", tmp_path, md5(CONTENT))
    assert visible(tmp_path) == {"set.zip": CONTENT} and server.ranges[-1] is None


def test_an_html_page_does_not_cost_what_came_before(server: Server, tmp_path: Path) -> None:
    server.modes = ["truncated", "html"]
    with refused("HTML page"):
        fetch(f"{server.url}/set.zip", tmp_path, md5(CONTENT))
    assert visible(tmp_path) == {"set.zip.part": CONTENT[:HALF]}


def test_a_file_put_there_by_hand_is_checked_and_never_removed(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "set.zip").write_bytes(b"other")
    with refused(str(tmp_path / "set.zip"), md5(b"other"), "remove it", "by hand"):
        fetch(f"{server.url}/set.zip", tmp_path, md5(CONTENT))
    assert visible(tmp_path) == {"set.zip": b"other"} and not server.ranges
    fetch(f"{server.url}/set.zip", tmp_path, md5(b"other"))


def test_two_at_once_fetch_once(server: Server, impatient: None, tmp_path: Path) -> None:
    server.modes = ["stalls", "ok"]  # slow enough for the second to come while the first is at it
    found: list[Path] = []

    def call() -> None:
        found.append(fetch(f"{server.url}/set.zip", tmp_path, md5(CONTENT)))

    both = [threading.Thread(target=call) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found == [tmp_path / "set.zip"] * 2 and visible(tmp_path) == {"set.zip": CONTENT}
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").symlink_to("/dev/full")
    with refused("set.zip.part cannot be written", "No space left", "make room", "by hand"):
        fetch(f"{server.url}/set.zip", tmp_path, md5(CONTENT))
    assert not (tmp_path / "set.zip").exists()


def test_a_root_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused("cannot be written", "data.root or GRAPHFSL_DATA", "by hand"):
        fetch(f"{server.url}/set.zip", tmp_path / "file" / "root", md5(CONTENT))
    (tmp_path / "closed").mkdir(mode=0o555)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    with refused("cannot be written", "Permission denied"):
        fetch(f"{server.url}/set.zip", tmp_path / "closed", md5(CONTENT))


# ---- extract ----


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_extract_takes_the_folder_and_starts_clean(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "set.tgz", {"set/a.txt": b"a", "set/deep/b.txt": b"b", "beside.txt": b"c"}
    )
    (tmp_path / ".set.part" / "set").mkdir(parents=True)
    (tmp_path / ".set.part" / "set" / "half.txt").touch()
    extract(archive, tmp_path / "set")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.txt")) == [
        "set/a.txt",
        "set/deep/b.txt",
    ]
    (tmp_path / "set" / "a.txt").write_bytes(b"mine")
    extract(archive, tmp_path / "set")
    assert (tmp_path / "set" / "a.txt").read_bytes() == b"mine", (
        "a folder that is there is left alone"
    )


@pytest.mark.parametrize("name", ["../out.txt", "set/../../out.txt"])
def test_extract_refuses_what_climbs_out(tmp_path: Path, name: str) -> None:
    archive = tar(tmp_path / "set.tgz", {"set/a.txt": b"a", name: b"x"})
    (tmp_path / "in").mkdir()
    with refused("set.tgz", "do not use this file"):
        extract(archive, tmp_path / "in" / "set")
    assert not (tmp_path / "in" / "set").exists() and not list(tmp_path.rglob("out.txt"))


def test_extract_refuses_a_broken_archive(tmp_path: Path) -> None:
    whole = tar(tmp_path / "set.tgz", {"set/a.bin": CONTENT}).read_bytes()
    for content in (b"", b"no archive", whole[:20], whole[: len(whole) // 2]):
        (tmp_path / "set.tgz").write_bytes(content)
        with refused("set.tgz", "run the same command again"):
            extract(tmp_path / "set.tgz", tmp_path / "set")
        assert list(visible(tmp_path)) == ["set.tgz"]
    tar(tmp_path / "set.tgz", {"another/a.bin": CONTENT})
    with refused("set.tgz", "holds no folder set"):
        extract(tmp_path / "set.tgz", tmp_path / "set")


# ---- whole sets ----


def test_omniglot(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {"train": ["A/character01"], "val": ["B/character01"], "test": ["C/character01"]}
    monkeypatch.setattr(omniglot, "class_list", lambda name: lists)
    for folder, letters in (("images_background", "AB"), ("images_evaluation", "C")):
        data, png = io.BytesIO(), io.BytesIO()
        Image.new("L", (4, 4), 255).save(png, "png")
        with zipfile.ZipFile(data, "w") as archive:
            for letter in letters:
                archive.writestr(f"{folder}/{letter}/character01/0001_01.png", png.getvalue())
        server.files[f"/{folder}.zip"] = data.getvalue()
    monkeypatch.setattr(Omniglot, "download_url_prefix", server.url)
    monkeypatch.setattr(
        Omniglot, "zips_md5", {p[1:-4]: md5(content) for p, content in server.files.items()}
    )
    with refused("Omniglot not found", str(tmp_path / "root")):
        load("omniglot", "test", tmp_path / "root")
    got = load("omniglot", "test", tmp_path / "root", download=True, rotations=False)
    assert got.classes == ("C/character01",) and got.x.shape == (1, 1, 28, 28)
    zips = tmp_path / "root" / "omniglot-py"
    assert list(visible(zips)) == ["images_background.zip", "images_evaluation.zip"]
    assert server.paths == ["/images_background.zip", "/images_evaluation.zip"]
    load("omniglot", "train", zips, download=True)
    omniglot.download(str(tmp_path / "root"))
    assert len(server.paths) == 2, "what is there is not asked for again"
    # A zip of the user's own is used as it is; only what is missing comes.
    (zips / "images_evaluation.zip").unlink()
    with zipfile.ZipFile(zips / "images_background.zip", "a") as archive:
        archive.writestr("note.txt", "another md5")
    assert load(
        "omniglot", "train", tmp_path / "root", download=True, rotations=False
    ).counts.tolist() == [1]
    assert server.paths[2:] == ["/images_evaluation.zip"]


def packed(folder: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return data.getvalue()


def test_cifar(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed(write_binary(tmp_path / "source"))
    server.files["/cifar.tar.gz"] = content
    monkeypatch.setattr(cifar, "URL", f"{server.url}/cifar.tar.gz")
    monkeypatch.setattr(cifar, "MD5", md5(content))
    server.modes = ["truncated", "ok"]
    root = tmp_path / "root"
    got = load("cifar_fs", "test", root, download=True)
    assert len(got.classes) == 20 and np.array_equal(
        got.x, load("cifar_fs", "test", tmp_path / "source").x
    )
    load("fc100", "val", root, download=True)
    cifar_fs.download(str(root))
    assert len(server.paths) == 2, "one download for both sets"
    assert (root / "cifar-100-binary").is_dir() and not list(root.rglob("*.part"))


def test_cub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "source", "cub", CASES["cub"][0], count=1)
    content = packed(tmp_path / "source" / "CUB_200_2011")
    server.files["/cub.tgz"] = content
    monkeypatch.setattr(cub, "URL", f"{server.url}/cub.tgz")
    monkeypatch.setattr(cub, "MD5", md5(content))
    for k in range(2):
        assert (
            load("cub", "test", tmp_path / "root", download=True, size=2).counts.tolist()
            == [1] * 50
        ), k
    cub.download(str(tmp_path / "root"))
    assert server.paths == ["/cub.tgz"]
    assert (
        load("cub", "train", tmp_path / "source" / "CUB_200_2011", download=True, size=2).name
        == "cub/train"
    )
    assert server.paths == ["/cub.tgz"], "a user's own folder is enough"

"""Sets larger than RAM stay on disk, episodes travel as lists of ids, one run works in a
directory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting, Split, Transform, channel_statistics
from graphfsl.data import memory_map as stored
from graphfsl.data.episode_files import read_episodes, write_episodes
from graphfsl.io.errors import InputError
from graphfsl.io.lock import locked
from graphfsl.loops.encode import encode_split
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.heads.protonet import ProtoNet
from tests.support import ROOT
from tests.support.command import Call


@pytest.fixture
def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.memmap:
    """120 images in a file, treated as too large for RAM."""
    monkeypatch.setattr(stored, "IN_RAM", 1000)
    x = np.random.default_rng(0).integers(0, 256, (120, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def split(x: np.ndarray, name: str = "disk/train") -> Split:
    y = torch.arange(len(x)) // 10
    return Split(x, y, tuple(f"c{i}" for i in range(len(x) // 10)), name)  # type: ignore[arg-type]


def test_a_stored_split_gives_what_one_in_memory_gives(array: np.memmap) -> None:
    disk, ram = split(array), split(np.array(array))
    assert disk.stored is not None and ram.stored is None
    assert (disk.shape, disk.x.dtype) == (ram.shape, torch.uint8)
    ids = torch.tensor([[119, 0, 7], [7, 64, 1]])
    assert torch.equal(disk.gather(ids), ram.gather(ids))
    assert all(torch.equal(a, b) for a, b in zip(disk.blocks(50), ram.blocks(50), strict=True))
    assert channel_statistics(disk) == channel_statistics(ram)
    for i in range(3):
        (a, s), (b, t) = (
            Episodes(x, way=4, shot=2, query=3).batch([i, i + 7]) for x in (disk, ram)
        )
        assert torch.equal(a.x, b.x) and torch.equal(s.ids, t.ids)
    flat = Pipeline(torch.nn.Flatten(), head=ProtoNet())
    assert torch.equal(
        encode_split(flat, disk, Transform()).x, encode_split(flat, ram, Transform()).x
    )


def test_a_slice_of_a_memory_map_is_read_from_its_own_place(array: np.memmap) -> None:
    part = array[30:90]
    disk = split(part)
    assert disk.stored is not None
    assert torch.equal(disk.gather(torch.arange(60)), torch.from_numpy(np.array(part)))


def test_normalisation_by_hand(array: np.memmap) -> None:
    x = np.array(array) / 255
    found = channel_statistics(split(array))
    assert found["mean"] == pytest.approx(x.mean((0, 2, 3)), abs=1e-4)
    assert found["std"] == pytest.approx(
        x.transpose(1, 0, 2, 3).reshape(3, -1).std(1, ddof=1), abs=1e-4
    )


def test_a_file_that_became_shorter_is_named(array: np.memmap, tmp_path: Path) -> None:
    disk = split(array)
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(InputError, match=r"x\.npy is shorter"):
        disk.gather(torch.tensor([100]))


BIG = """
import numpy as np, sys, torch
from pathlib import Path
from graphfsl.data import Episodes, Split
def held(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
shape = (60000, 3, 84, 84)  # 1.3 GB, a sparse file
np.lib.format.open_memmap(sys.argv[1], mode="w+", dtype=np.uint8, shape=shape).flush()
x = np.load(sys.argv[1], mmap_mode="r")
split = Split(x, torch.arange(60000) // 600, tuple(map(str, range(100))), "big/train")
episodes = Episodes(split, way=5, shot=1, query=15)
before = held()
for _ in episodes.batches(300, 4): pass
print((held() - before) / 2**20)
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="asks Linux how much memory the process holds"
)
def test_drawing_from_a_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    code = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(BIG), str(tmp_path / "big.npy")]
    grown = subprocess.run(code, capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(grown.stdout) < 400, "24,000 images are 500 MB, and through the map far more"


# ---- lists of episodes ----


@pytest.mark.parametrize(
    "setting",
    [
        Setting(4, 2, 3),
        Setting(3, 1, 2, unlabeled=2, distractors=2),
        Setting(3, 1, 2, max_shot=3),
        Setting(4, 1, 3, dirichlet=1.0),
        Setting(3, 1, 2, open_classes=2, open_query=1),
    ],
)
def test_listed_episodes_are_the_drawn_ones(tmp_path: Path, setting: Setting) -> None:
    own = split(np.random.default_rng(0).integers(0, 256, (120, 3, 8, 8), dtype=np.uint8))
    write_episodes(tmp_path / "e.json", own, setting, 5, 20)
    listed = read_episodes(tmp_path / "e.json", own)
    assert (len(listed), listed.task, listed.seed) == (20, setting, 5)
    drawn, read = Episodes(own, setting, 5), Episodes(own, listed=listed)
    for i in ([0], [19, 3]):
        (a, s), (b, t) = drawn.batch(i), read.batch(i)
        assert torch.equal(a.x, b.x) and torch.equal(a.w, b.w) and torch.equal(a.mask, b.mask)
        assert all(
            torch.equal(getattr(s, k), getattr(t, k))
            for k in ("query", "unlabeled", "ids", "classes")
        )
    head = Pipeline(torch.nn.Flatten(), head=ProtoNet())
    again = evaluate(head, own, listed=listed)
    assert torch.equal(again.accuracies, evaluate(head, own, setting, 20, 5).accuracies)
    # What another library reads: nodes by sample, support first, with their classes.
    facts = json.loads((tmp_path / "e.json").read_text())
    for e in facts["episodes"]:
        for i, label in zip(e["ids"], e["labels"], strict=True):
            assert label < 0 or facts["classes"][e["classes"][label]] == f"c{i // 10}"


def test_a_list_for_other_samples_or_with_a_wrong_label_is_refused(tmp_path: Path) -> None:
    own = split(np.zeros((120, 3, 8, 8), np.uint8))
    write_episodes(tmp_path / "e.json", own, Setting(4, 2, 3), 0, 5)
    with pytest.raises(
        InputError,
        match=r"episodes of disk/train, whose samples are not those "
        r"of other/test",
    ):
        read_episodes(tmp_path / "e.json", split(np.zeros((110, 3, 8, 8), np.uint8), "other/test"))
    facts = json.loads((tmp_path / "e.json").read_text())
    for broken in ("label", "id", "twice", "short", "gone"):
        bad = json.loads(json.dumps(facts))
        first = bad["episodes"][0]
        if broken == "label":
            first["labels"][0] = (first["labels"][0] + 1) % 4
        elif broken == "id":
            first["ids"][3] = 120
        elif broken == "twice":  # the first query is the support sample of its own class
            first["ids"][8] = first["ids"][first["labels"].index(first["labels"][8])]
        elif broken == "short":
            first["ids"].pop()
        else:
            del bad["episodes"]
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(InputError, match=r"bad\.json is not a list of episodes"):
            read_episodes(tmp_path / "bad.json", own)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (Setting(3, 5, 2, noise=1), "another number of wrong labels than 1 of a class"),
        (Setting(3, 2, 2, open_classes=2), "queries of no class"),
    ],
)
def test_a_list_with_other_wrong_labels_or_unknown_queries_is_refused(
    tmp_path: Path, setting: Setting, says: str
) -> None:
    own = split(np.zeros((120, 3, 8, 8), np.uint8))
    write_episodes(tmp_path / "e.json", own, setting, 0, 5)
    assert len(read_episodes(tmp_path / "e.json", own)) == 5
    facts = json.loads((tmp_path / "e.json").read_text())
    first = facts["episodes"][0]
    if setting.noise:  # one more label that is wrong
        right = next(
            k
            for k in range(15)
            if facts["classes"][first["classes"][first["labels"][k]]] == f"c{first['ids'][k] // 10}"
        )
        first["labels"][right] = (first["labels"][right] + 1) % 3
    else:  # a query of a class that is said to be of none
        known = next(k for k in range(6, 16) if first["labels"][k] >= 0)
        first["labels"][known] = -1
    (tmp_path / "bad.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=says):
        read_episodes(tmp_path / "bad.json", own)


def test_episodes_go_out_and_come_back_through_the_command(world: Path, call: Call) -> None:
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    code, out, _ = call(
        "episodes", "r", "evaluation.episodes=25", "episode.shot=2", "--out", "e.json"
    )
    assert code == 0 and "25 episodes of data/test" in out
    code, out, err = call("evaluate", "r", "--episodes", "e.json", "--json")
    assert code == 0, err
    (listed,) = json.loads(out)
    assert (listed["shot"], listed["episodes"]) == (2, 25)
    code, out, _ = call("evaluate", "r", "episode.shot=2", "evaluation.episodes=25", "--json")
    assert json.loads(out)[0]["accuracy"] == listed["accuracy"]
    for override in ("episode.shot=1", "evaluation.episodes=3", "evaluation.seed=1"):
        code, _, err = call("evaluate", "r", "--episodes", "e.json", override)
        assert (
            code == 2
            and (f"{override} changes nothing: e.json lists") in err
            and err.count("\n") == 1
        )


def test_several_data_sets_stand_in_one_table(world: Path, call: Call) -> None:
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    folder = world / "photos" / "test"
    for c in range(4):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20, 20), (60 * c, i, 0)).save(folder / f"class{c}" / f"{i}.png")
    for split_name in ("train", "val", "test"):
        (world / "data" / f"{split_name}.npz").rename(folder.parent / f"{split_name}.npz")
    code, out, err = call(
        "evaluate", "r", "--on", "arrays,folder", "data.root=photos", "--out", "both.json"
    )
    assert code == 0, err
    rows = json.loads(Path("both.json").read_text())["rows"]
    assert [r["data"] for r in rows] == ["photos/test"] * 2 and rows[1]["accuracy"] > 90
    assert out.count("photos/test") == 2 and "accuracy %" in out
    code, _, err = call("evaluate", "r", "--on", "arrays,glyphs", "data.root=photos")
    assert code == 2 and "glyphs/test holds (1, 28, 28)" in err, "a set without files takes no root"
    code, _, err = call("evaluate", "r", "--on", "arrays", "data.name=folder")
    assert code == 2 and "--on names the data sets; leave data.name=folder out" in err


# ---- one run in a directory ----


def test_a_second_run_in_a_directory_is_refused(world: Path, call: Call) -> None:
    Path("r").mkdir()
    with FileLock("r/.lock"):
        code, _, err = call("run", "my.yaml", "--out", "r")
    assert code == 2 and err.strip() == (
        "graphfsl: another process works in r; wait for it, or choose another --out"
    )
    (Path("r") / ".model.safetensors-abc123").write_text("left by a killed process")
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    assert not list(Path("r").glob(".*")), "neither the lock nor what was left behind"


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), locked(tmp_path / "r"):
            raise RuntimeError

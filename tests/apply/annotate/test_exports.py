"""What is taken elsewhere: tables, folders, Hugging Face's metadata, Label Studio's JSON."""

from __future__ import annotations

import json
import shutil
import unicodedata
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from graphfsl.apply.annotate.exports import Labelled, export
from graphfsl.apply.annotate.label_studio import controls
from graphfsl.apply.annotate.safe_names import SafeNames
from graphfsl.data.images import read_folder_classes
from graphfsl.io.errors import InputError
from tests.support.labelling import picture_pool, served
from tests.support.pools import read_csv


def sample(path: Path, label: str, given: bool = True) -> Labelled:
    return Labelled(path.name, path, label, 1.0 if given else 0.7, given, True)


def test_a_labelled_pool_is_exported_as_a_whole(tmp_path: Path) -> None:
    pool, truth = picture_pool(tmp_path / "in", classes=3, each=20)
    with served(tmp_path, pool) as (page, (anna,)):
        classes = [anna.new_class(name) for name in ("rot", "../blau", "=grün")]
        anna.label_some(truth, classes, 12)
        assert page.bench.settled()
        told = anna.post("export", bar=0.0, validation=0.25)
        assert told["given"] == 12 and told["predicted"] == 48
        copied = anna.post("export", bar=2, links=False)
        assert copied["predicted"] == 0 and copied["folder"].endswith("002")

    folder = Path(told["folder"])
    rows = read_csv(str(folder / "labelled.csv"))
    assert len(rows) == 60 and sum(int(row["given"]) for row in rows) == 12
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    folders = {row["class"]: row["folder"] for row in read_csv(str(folder / "names.csv"))}
    assert folders == {"../blau": "__blau", "'=grün": "_grün", "rot": "rot"}

    seen = 0
    for side in ("train", "validation"):
        lines = (folder / "images" / side / "metadata.jsonl").read_text("utf-8").splitlines()
        for line in map(json.loads, lines):
            file = folder / "images" / side / line["file_name"]
            source = str(file.resolve().relative_to(tmp_path / "in"))
            assert file.is_symlink() and file.is_file()
            assert line["label"] == ("rot", "../blau", "=grün")[truth[source]]
            seen += 1
        assert 5 < len(lines) < 55
    assert seen == 60 == len(list((folder / "images").rglob("*.png")))
    copies = list(Path(copied["folder"]).rglob("*.png"))
    assert len(copies) == 12 and not any(file.is_symlink() for file in copies)


def test_each_class_has_a_sample_to_train_on(tmp_path: Path) -> None:
    images = [tmp_path / f"{n}.png" for n in range(30)]
    for n, image in enumerate(images):
        image.write_bytes(bytes([n]))
    samples = [sample(image, f"c{n % 20}") for n, image in enumerate(images)]
    folder = export(tmp_path / "exports", samples, "score", validation=0.9) / "images"
    kinds = {side: {f.name for f in (folder / side).iterdir()} for side in ("train", "validation")}
    assert kinds["train"] - {"metadata.jsonl"} == {f"c{n}" for n in range(20)}
    assert kinds["validation"] - {"metadata.jsonl"} < kinds["train"]


def test_equal_files_stand_on_one_side_of_the_split(tmp_path: Path) -> None:
    samples = []
    for n in range(40):
        image = tmp_path / f"{n:02d}.png"
        image.write_bytes(bytes([n // 4, 1]))  # four of each, all of one size
        samples.append(sample(image, "ab"[n // 20]))
    folder = export(tmp_path / "exports", samples, "score", validation=0.5) / "images"
    sides: dict[bytes, set[str]] = {}
    for side in ("train", "validation"):
        for file in (folder / side).rglob("*.png"):
            sides.setdefault(file.read_bytes(), set()).add(side)
    assert len(sides) == 10 and all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) == {"train", "validation"}


def test_a_class_called_unlabeled_is_a_class_in_its_folder(tmp_path: Path) -> None:
    """Beside class folders, `unlabeled` holds images without a class."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    samples = [sample(tmp_path / "a.png", "heron"), sample(tmp_path / "b.png", "unlabeled")]
    folder = export(tmp_path / "exports", samples, "score", validation=0.0)
    assert set(read_folder_classes(folder / "images/train")) == {"heron", "_unlabeled"}


def test_an_export_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="No space left on device; free space, or take links"):
        export(tmp_path / "exports", [sample(image, "a")], "score", links=False)
    assert not list((tmp_path / "exports").iterdir())
    with pytest.raises(InputError, match="no sample has a label"):
        export(tmp_path / "exports", [], "score")


def test_no_name_climbs_collides_or_begins_a_formula() -> None:
    names = SafeNames()
    texts = ["..", "../../etc", "a/b", "a\\b", "Cat", "cat", "CAT", "é", "e\u0301", "=1+1", "@x"]
    texts += [
        "-rf",
        ".hidden",
        "con",
        "CON.txt",
        "x. ",
        "x",
        "ß",
        "SS",
        "\u202eevil",
        "",
        "猫",
        "𝒂b",
    ]
    texts += ["a" * 500, "a" * 501, "'=1", "ﬁ", "fi", "nul\x00l", "~root"]
    made = [names.of(text) for text in texts]
    assert len({exports_alike(name) for name in made}) == len(texts)
    for name in made:
        assert name not in ("", ".", "..") and not set(name) & set('/\\:*?"<>|\x00\u202e')
        assert name[0] not in "=+-@'. ~" and name[-1] not in " ." and len(name.encode()) < 200
        assert name.lower().partition(".")[0] not in ("con", "nul")
    assert "猫" in made and "é" in made


def exports_alike(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


# Label Studio

CONFIG = """<View><Image name="img" value="$picture"/>
<Choices name="kind" toName="img"><Choice value="rot"/></Choices></View>"""


@pytest.fixture
def labelled(tmp_path: Path) -> Any:
    pool, truth = picture_pool(tmp_path / "in", classes=2)
    with served(tmp_path, pool) as (page, (anna,)):
        classes = [anna.new_class(name) for name in ("rot", "blau")]
        anna.label_some(truth, classes, 8)
        assert page.bench.settled()
        yield page, anna, truth


def test_the_ml_backend_speaks_label_studios_protocol(labelled: Any) -> None:
    """As in its documentation: /health, /setup, and /predict with a result for each task."""
    page, anna, truth = labelled
    base = page.predictions

    def post(question: str, **body: Any) -> Any:
        return anna.client.post(f"{base}/{question}", json=body)

    assert anna.client.get(f"{base}/health").json()["status"] == "UP"
    assert post("setup", project="1.17", schema=CONFIG, hostname="").json() == {
        "model_version": "graphfsl"
    }
    names = list(truth)
    local = f"/data/local-files/?d=in/{names[0]}"
    tasks = [
        {"id": 1, "data": {"picture": local}},
        {"id": 2, "data": {"picture": f"http://host:8080/data/in/{names[1]}"}},
        {"id": 3, "data": {"picture": "/data/local-files/?d=other/nowhere.png"}},
        {"id": 4, "data": {"picture": f"/data/local-files/?d=in/../../{names[0]}"}},
    ]
    told = post("predict", tasks=tasks, label_config=CONFIG, project="1.17", params={}).json()
    assert told["model_version"] == "graphfsl" and len(told["results"]) == 4
    for name, found in zip(names[:2], told["results"], strict=False):
        (one,) = found["result"]
        kind = ("rot", "blau")[truth[name]]
        assert one["from_name"] == "kind" and one["to_name"] == "img" and one["type"] == "choices"
        assert one["value"] == {"choices": [kind]} and 0.5 < found["score"] <= 1
    assert told["results"][2]["result"] == []

    assert anna.client.post(f"{base[:-1]}x/predict", json={"tasks": []}).status_code == 401
    assert post("predict", tasks=[], label_config="<!DOCTYPE x><View/>").status_code == 400
    assert post("predict", tasks=[{}], label_config=CONFIG).status_code == 400
    foreign = {"origin": "http://evil.example"}
    assert anna.client.post(f"{base}/setup", json={}, headers=foreign).status_code == 403


def test_the_exported_tasks_fit_the_exported_configuration(labelled: Any) -> None:
    _, anna, truth = labelled
    folder = Path(anna.post("export", bar=0)["folder"])
    control, image, field = controls((folder / "label_studio.xml").read_text("utf-8"))
    config = ElementTree.parse(folder / "label_studio.xml")
    choices = {one.get("value") for one in config.iter("Choice")}
    tasks = json.loads((folder / "label_studio.json").read_text("utf-8"))
    given = [task for task in tasks if "annotations" in task]
    assert len(given) == 8 and len(tasks) == len(truth)
    for task in tasks:
        (result,) = task.get("annotations", task.get("predictions"))
        one = result["result"][0]
        assert (one["from_name"], one["to_name"]) == (control, image) and field in task["data"]
        assert set(one["value"]["choices"]) <= choices == {"rot", "blau"}

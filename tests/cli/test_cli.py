"""The command line as a user meets it: the whole way through, and one clear line for every
mistake.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphfsl.cli import demo
from graphfsl.cli.terminal import app
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.checkpoint import load_checkpoint, save_checkpoint
from graphfsl.methods.refine import gated_propagation
from tests.support import ROOT
from tests.support.command import Call, folder, write_split


def test_run_evaluate_report(world: Path, call: Call) -> None:
    code, out, err = call("run", "my.yaml", "--out", "r")
    assert code == 0, err
    assert "parameters" in out and "± " in out
    names = {p.name for p in Path("r").iterdir()}
    assert names == {
        "config.json",
        "data.json",
        "metrics.jsonl",
        "last.safetensors",
        "best.safetensors",
        "model.safetensors",
        "results.json",
    }
    result = json.loads(Path("r/results.json").read_text())
    (row,) = result["rows"]
    assert len(row["accuracies"]) == row["episodes"] == 40
    assert row["accuracy"] == pytest.approx(100 * np.mean(row["accuracies"]), abs=1e-3)
    assert (
        row["difference"] == pytest.approx(row["accuracy"] - 90.0, abs=0.01)
        and row["source"] == "a paper"
    )
    wanted = (
        "method",
        "setting",
        "traits",
        "batch_norm",
        "ci95",
        "seed",
        "config",
        "commit",
        "steps",
        "seconds",
        "device",
    )
    assert all(k in row for k in wanted)

    code, out, _ = call(
        "evaluate", "r", "episode.way=4", "episode.shot=5", "evaluation.episodes=30", "--json"
    )
    (row,) = json.loads(out)
    assert (
        code == 0
        and (row["way"], row["shot"], row["episodes"]) == (4, 5, 30)
        and "published" in row
    )

    code, out, _ = call("report", "r", "--out", "rep")
    assert code == 0 and {p.name for p in Path("rep").iterdir()} == {
        f"report.{e}" for e in ("html", "md", "csv", "tex")
    }


def test_the_same_command_changes_nothing_and_another_configuration_is_refused(
    world: Path, call: Call
) -> None:
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    before = load_checkpoint(Path("r/model.safetensors"))[0]
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    assert all(
        (v == before[k]).all() for k, v in load_checkpoint(Path("r/model.safetensors"))[0].items()
    )
    code, _, err = call("run", "my.yaml", "trainer.lr=0.5", "--out", "r")
    assert code == 2 and "another configuration" in err


def test_a_finished_run_evaluates_what_is_asked_now(world: Path, call: Call) -> None:
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    (world / "data").rename(world / "moved")
    code, _, err = call("run", "my.yaml", "evaluation.episodes=7", "data.root=moved", "--out", "r")
    assert code == 0, err
    assert json.loads(Path("r/results.json").read_text())["rows"][0]["episodes"] == 7


def test_training_on_train_and_val_selects_nothing(world: Path, call: Call) -> None:
    code, out, err = call("run", "my.yaml", "data.base=trainval", "--out", "r")
    assert code == 0, err
    assert "144 samples of 12 base classes" in out
    assert not Path("r/best.safetensors").exists()
    last, model = (load_checkpoint(Path("r") / f"{n}.safetensors")[0] for n in ("last", "model"))
    assert all((v == last[f"model/{k}"]).all() for k, v in model.items())
    code, _, err = call("run", "my.yaml", "data.base=trainvall", "--out", "q")
    assert code == 2 and "did you mean 'trainval'" in err


def test_few_base_classes_are_trained_on(world: Path, call: Call) -> None:
    code, out, err = call("run", "my.yaml", "data.base_classes=6", "--out", "r")
    assert code == 0, err
    assert " of 6 base classes" in out
    for wrong, said in (("1", "at least 2"), ("true", "at least 2"), ("1000", "cut to 1000")):
        code, _, err = call("run", "my.yaml", f"data.base_classes={wrong}", "--out", "q")
        assert code == 2 and said in err and not Path("q").exists()


def test_options_are_chosen_on_base_classes_that_nothing_learned_from(
    world: Path, call: Call
) -> None:
    held = ("evaluation.split=held_out", "episode.way=2")
    code, out, err = call("run", "my.yaml", "data.base_classes=3", *held, "--out", "r")
    assert code == 0, err
    assert " of 3 base classes" in out
    (row,) = json.loads(Path("r/results.json").read_text())["rows"]
    assert row["data"] == "data/train[3:]"
    source = Experiment.read("my.yaml", ["data.base_classes=3", *held]).data
    seen, kept = (source.split(name).x for name in ("train", "held_out"))
    assert len(seen) == len(kept) == 36
    assert not {x.numpy().tobytes() for x in seen} & {x.numpy().tobytes() for x in kept}
    for few, said in (("null", "data.base_classes leaves out"), ("5", "5 leave 1; two or more")):
        code, _, err = call("run", "my.yaml", f"data.base_classes={few}", *held, "--out", "q")
        assert code == 2 and said in err and not Path("q").exists()


def test_classes_that_are_too_small_are_left_out_on_request(world: Path, call: Call) -> None:
    file = world / "data" / "train.npz"
    with np.load(file) as stored:
        images, labels = stored["images"], stored["labels"]
    kept = (labels > 0) | (np.cumsum(labels == 0) <= 2)
    np.savez(file, images=images[kept], labels=labels[kept])
    code, _, err = call("run", "my.yaml", "--out", "r")
    assert code == 2 and "has 2 images" in err and "data.min_samples=" in err
    with pytest.warns(
        UserWarning,
        match=r"classes of fewer than 12 samples are left out: '0' "
        r"\(2\)",
    ):
        code, _, err = call("run", "my.yaml", "data.min_samples=12", "--out", "r")
    assert code == 0, err
    assert len(json.loads(Path("r/data.json").read_text())["train"]["classes"]) == 5
    code, _, err = call("run", "my.yaml", "data.min_samples=0", "--out", "q")
    assert code == 2 and "at least 1" in err and not Path("q").exists()


def test_a_run_that_fails_before_its_first_step_leaves_nothing(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("graphfsl.loops.trainer.Trainer.fit", fit)
        code, _, err = call("run", "my.yaml", "--out", "r")
    assert code == 2 and "out of memory" in err and not Path("r").exists()
    assert call("run", "my.yaml", "learner.head=simple_shot", "--out", "r")[0] == 0


def test_maml_and_a_part_that_learns_from_base_features(world: Path, call: Call) -> None:
    maml = ("learner.head=linear", "learner.adapt.name=maml", "trainer.steps=3", "trainer.batch=2")
    code, _, err = call("run", "my.yaml", *maml, "--out", "m")
    assert code == 0, err
    row = json.loads(Path("m/results.json").read_text())["rows"][0]
    assert (row["setting"], row["batch_norm"]) == ("transductive", "apart")
    code, _, err = call("evaluate", "m", "learner.batch_norm=running")
    assert code == 2 and "no BatchNorm averages" in err
    assert call("evaluate", "m", "learner.batch_norm=support")[0] == 0
    vae = ("learner.augment.name=prototype_vae", "learner.augment.base_steps=20")
    code, _, err = call("run", "my.yaml", *vae, "--out", "v")
    assert code == 0, err
    before = load_checkpoint(Path("v/model.safetensors"))[0]
    assert before["augment.0.ready"] == 1
    Path("v/model.safetensors").unlink()  # as if killed while fitting
    assert call("run", "my.yaml", *vae, "--out", "v")[0] == 0
    assert all(
        (v == before[k]).all() for k, v in load_checkpoint(Path("v/model.safetensors"))[0].items()
    )
    code, _, err = call("run", "my.yaml", *vae, "learner.batch_norm=support", "--out", "w")
    assert code == 2 and "learner.batch_norm=running" in err


def test_corrupted_images_are_answered_in_one_table(tmp_path: Path, call: Call) -> None:
    run, out = ROOT / "experiments/results/snell2017_glyphs_5w1s", tmp_path / "rows.json"
    asked = [
        "episode.shot=5",
        "evaluation.episodes=4",
        "--corrupt",
        "contrast,jpeg",
        "--level",
        "5",
    ]
    code, told, _ = call("evaluate", str(run), *asked, "--out", str(out))
    assert code == 0
    rows = json.loads(out.read_text())["rows"]
    bad = ["contrast, level 5, on all images", "jpeg, level 5, on all images"]
    assert [row["traits"] for row in rows] == [[], *([words] for words in bad)]
    assert not any(row["published"] for row in rows[1:])
    assert all(words in " ".join(told.split()) for words in ("contrast, level 5", "mean rank"))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--eps", "0.1"), "--eps is of an attack; give --attack pgd too"),
        (("--attack-on", "support"), "--attack-on is of an attack"),
        (("--attack-from", "r"), "--attack-from is of an attack"),
        (("--level", "3"), "--level is of a corruption; give --corrupt too"),
        (("--corrupt-on", "query"), "--corrupt-on is of a corruption"),
    ],
    ids=str,
)
def test_options_of_what_is_not_asked_for_are_refused(
    call: Call, option: tuple[str, str], says: str
) -> None:
    run = ROOT / "experiments/results/snell2017_glyphs_5w1s"
    code, _, err = call("evaluate", str(run), *option)
    assert code == 2 and says in " ".join(err.split())


@pytest.mark.parametrize(
    "options",
    [
        ("--attack", "pgd", "--eps", ""),
        ("--attack", "pgd", "--attack-on", ""),
        ("--corrupt", "fog", "--corrupt-on", ""),
    ],
    ids=str,
)
def test_an_option_without_a_value_is_not_the_default(call: Call, options: tuple[str, ...]) -> None:
    """As a shell leaves it where a variable is not set."""
    run = ROOT / "experiments/results/snell2017_glyphs_5w1s"
    code, _, err = call("evaluate", str(run), *options)
    says = f"nothing stands after {options[1]} {options[2]} but an empty word"
    assert code == 2 and says in " ".join(err.split())


@pytest.mark.parametrize("change", ["evaluation.seed=3", "episode.query=2"])
def test_a_learner_that_is_asked_other_episodes_is_refused(
    trained: Path, tmp_path: Path, call: Call, change: str
) -> None:
    """Its line would have a rank beside the run's, of other questions."""
    out = tmp_path / "t.json"
    code, _, err = call("evaluate", trained, "--against", change, "--out", out)
    assert code == 2 and f"--against {change} is asked other episodes" in err
    assert not out.exists()


def test_learners_of_a_run_and_changed_images_stand_in_one_table(
    tmp_path: Path, call: Call
) -> None:
    run, out = ROOT / "experiments/results/snell2017_glyphs_5w1s", tmp_path / "t.csv"
    asked = ["episode.shot=2", "episode.query=1", "evaluation.episodes=3", "--attack", "pgd"]
    asked += ["--eps", "0,0.9", "--attack-steps", "1"]
    further = ["--against", "learner.batch_norm=joint"]
    code, told, err = call("evaluate", str(run), *asked, *further, "--out", str(out))
    assert code == 0, err
    heads, *lines = csv.reader(out.read_text().splitlines())
    assert heads == ["", run.name, "learner.batch_norm=joint (transductive)"]
    assert len(lines) == 4 and lines[-1][0] == "mean rank"
    natural, same = lines[0][-2:], lines[1][-2:]
    assert natural == same and "(" in natural[1], "eps 0 changes nothing"
    assert str(out) in told.replace("\n", "")
    code, _, err = call("evaluate", str(run), *asked[:3], "--out", str(out))
    assert code == 2 and ".json" in err


def test_cross_domain_evaluation(trained: Path, tmp_path: Path, call: Call) -> None:
    (tmp_path / "other").mkdir()
    write_split(tmp_path / "other" / "test.npz", 9)
    code, _out, err = call(
        "evaluate", trained, f"data.root={tmp_path / 'other'}", "--out", tmp_path / "e.json"
    )
    assert code == 0, err
    assert json.loads((tmp_path / "e.json").read_text())["rows"][0]["data"] == "other/test"


def test_predict(
    trained: Path,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with np.load(trained.parent / "data" / "test.npz") as file:
        images, labels = file["images"], file["labels"]
    for c in range(3):
        folder = tmp_path / "support" / f"class {c}"
        folder.mkdir(parents=True)
        for i, image in enumerate(images[labels == c][:4]):
            Image.fromarray(image).resize((48, 48), Image.Resampling.NEAREST).save(
                folder / f"{i}.png"
            )
    (tmp_path / "query").mkdir()
    for c in range(3):
        large = Image.fromarray(images[labels == c][7]).resize((48, 48), Image.Resampling.NEAREST)
        large.save(tmp_path / "query" / f"is {c}.png")
    code, out, err = call(
        "predict",
        trained,
        "--support",
        tmp_path / "support",
        "--query",
        tmp_path / "query",
        "--json",
    )
    assert code == 0, err
    answers = json.loads(out)
    assert [a["label"] for a in answers] == [f"class {c}" for c in range(3)]
    assert all(1 / 3 < a["confidence"] <= 1 for a in answers)
    single = tmp_path / "query" / "is 1.png"
    code, out, _ = call("predict", trained, "--support", tmp_path / "support", "--query", single)
    assert code == 0 and out.split("\t")[1] == "class 1"
    several = ("predict", trained, "--support", tmp_path / "support", "--query", tmp_path / "query")
    # several blocks answer as one does
    monkeypatch.setattr("graphfsl.apply.predict.block_size", lambda *_: 2)
    code, out, err = call(*several, "--unlabeled", tmp_path / "query", "--json")
    assert code == 0, err
    for blocked, whole in zip(json.loads(out), answers, strict=True):
        assert blocked["probabilities"] == pytest.approx(whole["probabilities"], abs=1e-5)
    code, out, err = call(*several, "--all")
    assert code == 0, err
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0] == ["image", "label", "confidence", "class 0", "class 1", "class 2"]
    assert len(rows) == 4 and all(
        sum(map(float, r[3:])) == pytest.approx(1, abs=2e-3) for r in rows[1:]
    )


def test_evaluation_may_swap_data_set_and_parts(trained: Path, tmp_path: Path, call: Call) -> None:
    folder(tmp_path, classes=4)
    where = f"data.root={tmp_path / 'images'}"
    out = ("--out", tmp_path / "e.json", "--json")
    code, text, err = call("evaluate", trained, "data.name=folder", where, "episode.query=2", *out)
    assert code == 0, err
    (row,) = json.loads(text)
    assert row["data"].endswith("/test") and row["published"] is None, (
        "a published number is for its own data set"
    )
    code, text, err = call(
        "evaluate",
        trained,
        "learner.refine=soft_kmeans",
        "learner.batch_norm=support",
        "episode.unlabeled=3",
        *out,
    )
    assert code == 0, err
    (row,) = json.loads(text)
    assert (row["setting"], row["batch_norm"]) == ("semi-supervised", "support") and row[
        "published"
    ] is None
    code, _, err = call("evaluate", trained, "learner.encoder.width=16", *out)
    assert code == 2 and "another architecture" in err


def test_load_answers_on_raw_images(trained: Path) -> None:
    import graphfsl

    with np.load(trained.parent / "data" / "test.npz") as file:
        images, labels = file["images"], file["labels"]
    support = {str(c): list(images[labels == c][:3]) for c in range(3)}
    answer = graphfsl.load(trained).predict(
        support, [images[labels == 2][5], Image.fromarray(images[labels == 0][5])]
    )
    assert [a.label for a in answer] == ["2", "0"]
    assert sum(answer[0].probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_only_the_first_process_of_torchrun_talks(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    silenced: list[str] = []
    monkeypatch.setattr("graphfsl.cli.main._silence", lambda: silenced.append(os.environ["RANK"]))
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    for number in "012":
        monkeypatch.setenv("RANK", number)
        assert call("--help")[0] == 0
    assert silenced == ["1", "2"]


def test_demo_makes_its_table_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gated_propagation, "STEPS", 2)
    short = (
        "trainer.steps=12",
        "trainer.val_every=6",
        "trainer.val_episodes=10",
        "evaluation.episodes=12",
    )
    code, out, err = call("demo", *short, "--out", "d")
    assert code == 0, err
    rows = json.loads(next(Path("d").glob("protonet-*/results.json")).read_text())["rows"]
    assert len(rows) == 16 and {(r["shot"], r["method"]) for r in rows if not r["unlabeled"]} == {
        (shot, name) for shot in (1, 5) for name in ("raw pixels", "untrained encoder", "ProtoNet")
    }
    pools = [
        (r["unlabeled"], r["distractors"]) for r in rows if r["method"] == "ProtoNet + soft k-means"
    ]
    assert pools == [(10, 0), (10, 5)] and {r["shot"] for r in rows if r["unlabeled"]} == {1}
    html = Path("d/report.html").read_text()
    assert all(
        word in html for word in ("semi-supervised", "raining", "unlabeled", "<img", "distractor")
    )
    assert out.count("ProtoNet + soft k-means") >= 4
    # The page opens with what was found: sentences whose numbers are those of the rows, then a
    # picture.
    by_name = {r["method"]: r for r in rows if r["shot"] == 1 and not r["distractors"]}
    plain, best = (
        by_name["ProtoNet"],
        max((r for r in by_name.values() if r["unlabeled"]), key=lambda r: r["accuracy"]),
    )
    gain = (
        f"worth {100 * (np.mean(best['accuracies']) - np.mean(plain['accuracies'])):+.1f} "
        f"points more"
    )
    assert f"ProtoNet names {plain['accuracy']:.1f} %" in out and gain in out
    assert (
        html.index(gain)
        < html.index("<figure>")
        < html.index("<table>")
        < html.index("How it was made")
    )
    check_that_an_interrupted_demo_measures_only_what_is_missing(short, rows, monkeypatch, call)


def check_that_an_interrupted_demo_measures_only_what_is_missing(
    short: Sequence[str], whole: list[Any], monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    real = demo.evaluate  # type: ignore[attr-defined]
    measured: list[Any] = []

    def evaluate(*args: Any, **options: Any) -> Any:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(args)
        return real(*args, **options)

    monkeypatch.setattr(demo, "evaluate", evaluate)
    assert call("demo", *short, "--out", "cut")[0] == 130

    def counted(*args: Any, **options: Any) -> Any:
        measured.append(args)
        return real(*args, **options)

    monkeypatch.setattr(demo, "evaluate", counted)
    code, out, err = call("demo", *short, "--out", "cut")
    assert code == 0, err
    assert len(measured) == 16 and "step 12" not in out
    rows = json.loads(next(Path("cut").glob("protonet-*/results.json")).read_text())["rows"]
    assert [r["accuracies"] for r in rows] == [r["accuracies"] for r in whole]


def test_lists(call: Call) -> None:
    methods = json.loads(call("methods", "--json")[1])
    assert {"head", "adapt", "refine", "augment"} <= {m["slot"] for m in methods}
    assert all(m["source"] for m in methods)
    assert {"glyphs", "omniglot", "arrays", "folder"} <= {
        d["name"] for d in json.loads(call("data", "--json")[1])
    }
    assert "protonet" in call("methods")[1] and "glyphs" in call("data")[1]
    assert "…" not in call("methods")[1], "a link or a name was cut off"


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.argv = ['graphfsl', '--help']\nfrom graphfsl.cli import main as cli\n"
    code += "try: cli.main()\nexcept SystemExit: pass\n"
    code += (
        "heavy = {'torch', 'lightning_fabric', 'matplotlib', 'numpy'}; "
        "assert not heavy & set(sys.modules), 'slow import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


# Bad input
# --------------------------------------------------------------------------------------------------


def bad_override(*overrides: str) -> Callable[[Path], list[str]]:
    return lambda world: ["run", "my.yaml", *overrides, "--out", "r"]


def edit(change: Callable[[Path], object], *args: str) -> Callable[[Path], list[str]]:
    def make(world: Path) -> list[str]:
        change(world)
        return list(args or ("run", "my.yaml", "--out", "r"))

    return make


def features(value: float, classes: int = 6) -> Callable[[Path], object]:
    def change(world: Path) -> None:
        x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
        x[17, 2] = value
        for split in ("train", "val", "test"):
            np.savez(world / "data" / f"{split}.npz", features=x, labels=np.arange(60) % classes)

    return change


def truncate(world: Path) -> None:
    file = world / "data" / "train.npz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pickled(world: Path) -> None:
    np.savez(world / "data" / "train.npz", images=np.array([object()]), labels=np.array([0]))


def zip_slip(world: Path) -> None:
    (world / "omniglot-py").mkdir()
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(world / "omniglot-py" / f"{name}.zip", "w") as file:
            file.writestr("../../evil.png", b"x")


def other_architecture(world: Path) -> None:
    app(["run", "my.yaml", "--out", "r"], standalone_mode=False)
    tensors, facts = load_checkpoint(Path("r/model.safetensors"))
    tensors["encoder.convs.0.weight"] = tensors["encoder.convs.0.weight"][:4]
    save_checkpoint(Path("r/model.safetensors"), tensors, facts)


def cut_checkpoint(world: Path) -> None:
    app(["run", "my.yaml", "--out", "r"], standalone_mode=False)
    data = Path("r/model.safetensors").read_bytes()
    Path("r/model.safetensors").write_bytes(data[: len(data) // 3])


def unwritable(world: Path) -> None:
    # also stops root, unlike permissions
    (world / "r").write_text("a file where the run's folder should be")


FOLDER = ("run", "my.yaml", "data.name=folder", "--out", "r")
BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "unknown section": (bad_override("trainr.lr=1"), "did you mean 'trainer'"),
    "unknown trainer option": (bad_override("trainer.lrr=1"), "did you mean 'lr'"),
    "unknown episode option": (bad_override("episode.ways=3"), "did you mean 'way'"),
    "unknown method": (bad_override("learner.head=protnet"), "did you mean 'protonet'"),
    "unknown slot": (bad_override("learner.heads=protonet"), "did you mean 'head'"),
    "unknown method option": (
        bad_override("learner.head.distans=cosine"),
        "did you mean 'distance'",
    ),
    "unknown option value": (bad_override("learner.head.distance=cosin"), "did you mean 'cosine'"),
    "unknown encoder": (bad_override("learner.encoder=conv5"), "did you mean 'conv4'"),
    "unknown data set": (bad_override("data.name=omniglott"), "did you mean 'omniglot'"),
    "unknown data option": (bad_override("data.rot=x"), "did you mean 'root'"),
    "unknown augmentation": (bad_override("data.augment.rotat=5"), "did you mean 'rotate'"),
    "unknown BatchNorm policy": (
        bad_override("learner.batch_norm=runing"),
        "did you mean 'running'",
    ),
    "wrong type": (bad_override("episode.way=many"), "episode.way must be int"),
    "negative": (bad_override("episode.shot=-1"), "at least 0"),
    "no shot": (bad_override("episode.shot=0"), "only names tell the classes apart"),
    "not key=value": (bad_override("episode.way"), "not of the form key=value"),
    "broken YAML": (edit(lambda w: (w / "my.yaml").write_text("data: {name: [")), "my.yaml"),
    "empty YAML": (edit(lambda w: (w / "my.yaml").write_text("")), "data"),
    "head that needs adaptation": (bad_override("learner.head=linear"), "learner.adapt=maml"),
    "no head": (bad_override("learner.head=null"), "needs a head"),
    "missing experiment": (edit(lambda w: None, "run", "nothing.yaml"), "unknown experiment file"),
    "missing folder": (bad_override("data.root=/nowhere"), "/nowhere"),
    "missing split": (edit(lambda w: (w / "data" / "val.npz").unlink()), "val.npz"),
    "truncated npz": (edit(truncate), "train.npz"),
    "pickle inside": (edit(pickled), "train.npz"),
    "encoder for features": (edit(features(0.0)), "features already"),
    "no test episodes": (bad_override("evaluation.episodes=0"), "must be 1 or more"),
    "NaN feature": (edit(features(float("nan"))), "NaN or infinity"),
    "infinite feature": (edit(features(float("inf"))), "NaN or infinity"),
    "one class only": (
        edit(features(0.0, classes=1), "run", "my.yaml", "learner.encoder=null", "--out", "r"),
        "has 1 classes, but way 3 needs 3",
    ),
    "more ways than classes": (
        bad_override("train_episode.way=30"),
        "has 6 classes, but way 30 needs 30",
    ),
    "shot larger than the class": (bad_override("episode.shot=20"), "has 12 images"),
    "pool larger than the class": (bad_override("episode.unlabeled=50"), "has 12 images"),
    "no superclasses": (bad_override("episode.groups=within"), "no superclasses"),
    "corrupt image": (
        edit(lambda w: folder(w, corrupt=True), *FOLDER, "data.root=images", "data.size=16"),
        "3.png is not a readable image",
    ),
    "zip that climbs out": (
        edit(zip_slip, "run", "my.yaml", "data={name: omniglot, root: omniglot-py}", "--out", "r"),
        "climbs out of its folder",
    ),
    "no GPU": (bad_override("trainer.device=cuda"), "trainer.device=cuda"),
    "images too small": (bad_override("data={name: folder, root: images, size: 8}"), "images"),
    "unwritable folder": (edit(unwritable), "cannot write"),
    "another architecture": (edit(other_architecture, "evaluate", "r"), "another architecture"),
    "cut checkpoint": (edit(cut_checkpoint, "evaluate", "r"), "broken"),
    "not a run": (edit(lambda w: None, "evaluate", "data"), "is data a run directory"),
    "report of nothing": (edit(lambda w: None, "report", "data"), "results.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    name: str,
    world: Path,
    call: Call,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, message = BAD[name]
    args = make(world)
    capsys.readouterr()

    def files() -> dict[str, int]:
        found = [p for p in world.rglob("*") if p.is_file() and "cache" not in p.parts]
        return {str(p.relative_to(world)): p.stat().st_size for p in found}

    before = files()
    code, _, err = call(*args)
    assert code == 2
    assert message in err, err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("graphfsl: "), err
    assert files() == before, "something half-written was left"
    assert not (world.parent / "evil.png").exists()


def test_interruption_is_exit_code_130(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphfsl.loops import training_loop as loop

    real = loop.measured  # type: ignore[attr-defined]
    seen: list[Any] = []

    def interrupted(*args: object, **options: object) -> object:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "measured", interrupted)
    code, _, err = call("run", "my.yaml", "--out", "r")
    assert code == 130 and "the same command goes on" in err
    monkeypatch.setattr(loop, "measured", real)
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    assert [json.loads(x)["step"] for x in Path("r/metrics.jsonl").read_text().splitlines()] == [
        5,
        10,
        15,
        20,
    ]

"""What a folder says of itself: a run in training, the runs of several seeds, other answers, other
studies.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

from graphfsl.experiment import runner as progress
from graphfsl.experiment.builder import build
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.results import write_results
from graphfsl.experiment.run import load
from graphfsl.io.checkpoint import FORMAT, load_checkpoint, save_checkpoint, save_halved, write_json
from graphfsl.io.errors import InputError
from graphfsl.io.lock import held
from graphfsl.study.grid import read_study
from tests.support.command import Call


@pytest.fixture
def half(trained: Path, tmp_path: Path) -> Path:
    """A run that was interrupted after its first validation."""
    run = tmp_path / "half"
    run.mkdir()
    for name in ("config.json", "best.safetensors", "metrics.jsonl", "last.safetensors"):
        (run / name).write_bytes((trained / name).read_bytes())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    return run


@pytest.mark.parametrize("running", [True, False])
def test_a_run_that_is_not_trained_to_its_end_says_so(
    half: Path, call: Call, running: bool
) -> None:
    state = "a process works on it" if running else "interrupted"
    with FileLock(half / ".lock") if running else open(half / "config.json"):
        assert held(half) is running
        with pytest.warns(
            UserWarning,
            match=rf"has not ended \(step 10 of 20; .*{state}.*\): .* "
            rf"best weights so far",
        ):
            code, out, err = call("evaluate", half, "evaluation.episodes=5", "--json")
        assert code == 0, err
        (row,) = json.loads(out)
        assert row["unfinished"].startswith("step 10 of 20")
        with pytest.warns(UserWarning, match="has not ended"):
            assert load(half).steps > 0
        (half / "best.safetensors").unlink()
        code, _, err = call("evaluate", half)
        assert code == 2 and "no weights yet" in err and state in err and err.count("\n") == 1


def test_what_is_told_is_one_line(call: Call) -> None:
    assert call("data", "--json")[0] == 0
    assert warnings.formatwarning(UserWarning("it has not ended"), UserWarning, "run.py", 1) == (
        "warning: it has not ended\n"
    )
    assert "run.py:1" in warnings.formatwarning(FutureWarning("later"), FutureWarning, "run.py", 1)


def test_a_finished_run_says_nothing(trained: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert load(trained).unfinished is None
    assert not [w for w in recwarn if "has not ended" in str(w.message)]


def test_results_say_how_many_steps_counted_for_nothing(tmp_path: Path) -> None:
    """Of all seeds together; results of a training without one do not name them."""
    experiment = Experiment.of_saved({"data": {"name": "glyphs"}, "learner": {}})

    def said(*left_out: int | None) -> int | None:
        """What results.json says of seeds whose only line of metrics says so."""
        for seed, count in enumerate(left_out):
            run = tmp_path / f"seed-{seed}"
            run.mkdir(exist_ok=True)
            (run / "config.json").write_text("{}")
            own = {} if count is None else {"left_out": count}
            line = {"step": 20, "loss": 1.0, "seconds": 1.0} | own
            (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        write_results(tmp_path, experiment, [], 1.0)
        return json.loads((tmp_path / "results.json").read_text()).get("steps_left_out")

    assert said(3, 6) == 9
    assert said(3, None) == 3
    assert said(None, None) is None


def test_the_runs_of_several_seeds(world: Path, call: Call) -> None:
    options = ("seeds=2", "seed=9", "trainer.steps=10", "evaluation.episodes=5")
    assert call("run", "my.yaml", *options, "--out", "r")[0] == 0
    images = ("--support", "data", "--query", "data")
    for words in (
        ("evaluate", "r"),
        ("predict", "r", *images),
        ("explain", "r"),
        ("episodes", "r"),
    ):
        code, _, err = call(*words)
        if words[0] != "predict":  # which reads its images first
            assert (
                code == 2
                and err.count("\n") == 1
                and ("2 seeds; name one: r/seed-9, r/seed-10") in err
            ), err
    with pytest.raises(InputError, match="r/seed-9, r/seed-10"):
        load("r")
    facts = json.loads(Path("r/results.json").read_text())
    trainings = [
        json.loads(Path(f"r/seed-{s}/results.json").read_text())["training_seconds"]
        for s in (9, 10)
    ]
    assert facts["training_seconds"] == pytest.approx(sum(trainings), abs=0.02)

    code, _, err = call("report", "r", "--out", "rep")
    assert code == 0, err
    text = Path("rep/report.html").read_text()
    assert "r/seed-9" in text and "r/seed-10" in text and "2 seeds" in text
    Path("r/results.json").unlink()
    code, _, err = call("report", "r", "--out", "rep")
    assert (
        code == 2
        and ("has this run finished") in err
        and "name one seed: r/seed-9, r/seed-10" in err
    )


def test_one_run_and_several_seeds_do_not_share_a_folder(world: Path, call: Call) -> None:
    short = (
        "run",
        "my.yaml",
        "trainer={steps: 1, val_every: 1, val_episodes: 2}",
        "evaluation.episodes=2",
        "--out",
    )
    assert call(*short, "several", "seeds=2")[0] == 0 and call(*short, "one")[0] == 0
    before = [Path(folder, "results.json").read_bytes() for folder in ("several", "one")]
    for folder, seeds, said in (
        ("several", 1, "holds a run for each of 2 seeds"),
        ("one", 2, "holds one run"),
    ):
        code, _, err = call(*short, folder, f"seeds={seeds}")
        assert code == 2 and f"{folder} {said}" in err and err.count("\n") == 1
    assert before == [Path(folder, "results.json").read_bytes() for folder in ("several", "one")]
    assert call(*short, "several", "seeds=3")[0] == 0
    Path("study/cells").mkdir(parents=True)
    code, _, err = call(*short, "study")
    assert code == 2 and "study holds a study" in err and not Path("study/config.json").exists()


def test_reproduce_counts_every_seed_and_lists_what_was_overridden(world: Path, call: Call) -> None:
    options = ("seeds=2", "trainer.steps=10", "evaluation.episodes=5", "trainer.device=cpu")
    code, out, err = call("reproduce", "my.yaml", *options, "--out", "r")
    assert code == 0, err
    assert "steps: 10 for each of 2 seeds" in out
    told = [line for line in out.splitlines() if line.startswith("deviation: ")]
    assert told == [f"deviation: override {o}" for o in options[:3]]


def test_an_explanation_is_named_by_what_it_explains(
    trained: Path, call: Call, tmp_path: Path
) -> None:
    plain = call("explain", trained, "--query", "1")[1].splitlines()[0]
    other = call("explain", trained, "episode.shot=2", "--query", "1")[1].splitlines()[0]
    assert plain != other and json.loads(Path(plain).read_text())["overrides"] == []
    assert json.loads(Path(other).read_text())["overrides"] == ["episode.shot=2"]
    out = tmp_path / "why"
    assert call("explain", trained, "--query", "1", "--out", out)[0] == 0
    before = {p: p.read_bytes() for p in out.iterdir()}
    for words in (
        ("--query", "2"),
        ("--query", "1", "--episode", "3"),
        ("--query", "1", "episode.shot=2"),
    ):
        code, _, err = call("explain", trained, *words, "--out", out)
        assert (
            code == 2
            and ("holds the explanation of another answer") in err
            and err.count("\n") == 1
        )
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    assert call("explain", trained, "--query", "1", "--out", out)[0] == 0, (
        "the same one is made again"
    )


STUDY = """
experiment: my.yaml
set: {trainer.steps: 5, evaluation.episodes: 4}
grid: {learner.head.distance: [sqeuclidean, cosine], test.episode.shot: [1]}
"""


def test_a_study_leaves_the_folder_of_another_alone(world: Path, call: Call) -> None:
    Path("study.yaml").write_text(STUDY)
    assert call("ablate", "study.yaml", "--out", "a")[0] == 0
    table = Path("a/cells.csv").read_bytes()
    code, _, err = call("ablate", "study.yaml", "trainer.steps=6", "--out", "a")
    assert (
        code == 2
        and ("holds 2 finished cells that are not of this study") in err
        and err.count("\n") == 1
    )
    assert Path("a/cells.csv").read_bytes() == table
    code, out, err = call("ablate", "study.yaml", "grid.test.episode.shot=[1, 2]", "--out", "a")
    assert code == 0 and "2 cells are done already" in out, "a study that grows goes on"
    assert call("run", "my.yaml", "trainer.steps=5", "evaluation.episodes=4", "--out", "r")[0] == 0
    code, _, err = call("ablate", "study.yaml", "--out", "r")
    assert code == 2 and "r holds a run" in err


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "learner.head.distance=cosine",
            "learner.head.distance is set by the axis learner.head.distance",
        ),
        ("test.episode.shot=5", "is set by the axis test.episode.shot"),
        ("learner.encoder.width=16", "learner.encoder.width is set by the axis learner.encoder"),
        ("seeds=3", "make seeds an axis"),
        ("evaluation.settings=[{shot: 5}]", "each cell is evaluated in one setting"),
        ("evaluation.episodes=1", "a comparison needs evaluation.episodes of at least 2, not 1"),
    ],
)
def test_overrides_that_a_study_would_not_keep(
    world: Path, call: Call, word: str, says: str
) -> None:
    Path("study.yaml").write_text(STUDY.replace("grid: {", "grid: {learner.encoder: [conv4], "))
    code, _, err = call("ablate", "study.yaml", word, "--out", "a")
    assert code == 2 and says in err and err.count("\n") == 1, err
    assert not Path("a").exists()


@pytest.mark.parametrize(
    "change", ["evaluation: {settings: [{shot: 5}]}", "evaluation.settings: [{}, {shot: 5}]"]
)
def test_a_study_that_lists_settings_is_refused(world: Path, call: Call, change: str) -> None:
    Path("study.yaml").write_text(STUDY.replace("evaluation.episodes: 4", change))
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 2 and "each cell is evaluated in one setting" in err and err.count("\n") == 1


def test_axes_of_which_one_would_be_lost(world: Path, call: Call) -> None:
    for grid, said in (
        (
            "{learner.batch_norm: [running, support], learner: [{head: protonet}]}",
            "one replaces what the other sets",
        ),
        (
            "{learner.head: [{name: protonet, distance: cosine}], learner.head.distance: "
            "[sqeuclidean]}",
            "one replaces",
        ),
        ("{data.root: [data, more]}", "make test.data.root an axis"),
        ("{test.seed: [1, 2]}", "seed is read while training only"),
        ("{test.trainer.steps: [1, 2]}", "trainer.steps is read while training only"),
        ("{episode.shot: [1, 2]}", "episode is set by the axis episode.shot"),
    ):
        Path("study.yaml").write_text(
            f"experiment: my.yaml\nset: {{episode: {{way: 3, shot: 1, query: 3}}}}\ngrid: {grid}\n"
        )
        code, _, err = call("ablate", "study.yaml", "--out", "a")
        assert code == 2 and said in err and err.count("\n") == 1, err
        assert not Path("a").exists()
    Path("study.yaml").write_text(
        "experiment: my.yaml\nset: {episode: {way: 3}}\ngrid: {episode.shot: [1, 2]}\n"
    )
    assert [c.experiment.to_dict()["episode"] for c in read_study("study.yaml").cells] == [
        {"way": 3, "shot": s} for s in (1, 2)
    ]


def test_cells_on_data_at_several_places_are_of_their_own_data(world: Path, call: Call) -> None:
    shutil.copytree("data", "more")
    with np.load("more/test.npz") as file:
        labels = file["labels"]
    noise = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    np.savez("more/test.npz", images=noise, labels=labels)
    Path("study.yaml").write_text(
        "experiment: my.yaml\nset: {trainer.steps: 5, evaluation.episodes: 20}\ngrid: "
        "{test.data.root: [data, more]}\n"
    )
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    (run,) = Path("a/runs").iterdir()
    cells = [json.loads(file.read_text())["accuracy"] for file in Path("a/cells").iterdir()]
    alone = [
        json.loads(call("evaluate", run, f"data.root={r}", "--json")[1])[0]["accuracy"]
        for r in ("data", "more")
    ]
    assert alone[0] > alone[1] + 20 and sorted(cells) == sorted(alone)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("seed=3", "seed is read while training only, and this run is trained"),
        ("seeds=2", "seeds is read while training only"),
        ("trainer.steps=9", "trainer.steps is read while training only"),
        ("trainer={steps: 9, device: cpu}", "trainer.steps is read"),
        ("train_episode.way=2", "train_episode.way is read"),
        ("pretrain={objective: simclr}", "pretrain.objective is read"),
        ("data.mean=[0.1, 0.1, 0.1]", "data.mean is read"),
        ("data.augment={flip: true}", "data.augment.flip is read"),
        ("learner.encoder.weights=other.safetensors", "learner.encoder.weights is read"),
        ("learner[batch_norm]=apart", "write it with dots"),
        ("learner_x=1", "unknown section"),
    ],
)
def test_overrides_that_an_evaluation_does_not_read(
    trained: Path, call: Call, word: str, says: str
) -> None:
    code, _, err = call("evaluate", trained, word)
    assert code == 2 and says in err and err.count("\n") == 1, err


def test_a_section_that_is_overridden_as_a_whole_counts_as_its_keys(
    trained: Path, call: Call, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["evaluation"] = {"episodes": 5, "settings": [{"way": 4}, {"shot": 2}]}
    (run / "config.json").write_text(json.dumps(facts))
    (row,) = json.loads(call("evaluate", run, "episode={way: 5, shot: 1, query: 2}", "--json")[1])
    assert (row["way"], row["shot"]) == (5, 1)
    assert call("episodes", run, "evaluation={episodes: 4}", "--out", tmp_path / "e.json")[0] == 0
    for word in ("episode={way: 5}", "evaluation={seed: 3}"):
        code, _, err = call("evaluate", run, "--episodes", tmp_path / "e.json", word)
        assert code == 2 and "changes nothing" in err
    root = facts["config"]["data"]["root"]
    code, _, err = call("evaluate", run, "--on", "glyphs", f"data={{name: arrays, root: {root}}}")
    assert code == 2 and "--on names the data sets" in err
    for word in ("trainer={device: cpu}", "evaluation={split: val, episodes: 3}"):
        assert call("evaluate", run, word)[0] == 0


def test_a_checkpoint_that_was_changed_is_one_line(
    trained: Path, call: Call, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "model.safetensors"):
        (run / name).write_bytes((trained / name).read_bytes())
    whole = (run / "model.safetensors").read_bytes()
    steps = re.search(rb'\\"step\\": (\d+)', whole)
    assert steps
    # weights, and what is said of them
    for at in (len(whole) - 3, len(whole) // 2, steps.end(1) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1
        (run / "model.safetensors").write_bytes(changed)
        code, _, err = call("evaluate", run)
        assert (
            code == 2
            and ("its checksum is not that of its content") in err
            and err.count("\n") == 1
        ), at


def test_checksums_hold_for_any_tensors_and_are_not_asked_of_old_files(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4).mT,
        "none": torch.zeros(0, 2),
        "one": torch.tensor(3),
        "yes": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    save_checkpoint(tmp_path / "new", tensors, {"step": 3, "val": 0.1, "names": ("a", "b")})
    found, facts = load_checkpoint(tmp_path / "new")
    assert all(torch.equal(found[k], v) for k, v in tensors.items())
    assert facts == {"step": 3, "val": 0.1, "names": ["a", "b"]}
    with safe_open(tmp_path / "new", framework="pt") as file:
        assert json.loads(file.metadata()["graphfsl"])["format"] == FORMAT == 1, (
            "earlier versions read it"
        )
    save_file(
        {"a": torch.ones(2)}, tmp_path / "old", {"graphfsl": json.dumps({"step": 1, "format": 1})}
    )
    assert load_checkpoint(tmp_path / "old")[1] == {"step": 1}


def test_weights_stored_as_float16_are_loaded_as_float32(tmp_path: Path) -> None:
    tensors = {
        "weight": torch.randn(5, 4).mT,
        "tiny": torch.tensor([1e-12, 1.0]),
        "count": torch.tensor(70_001),
        "double": torch.randn(3, dtype=torch.float64),
        "yes": torch.tensor([True, False]),
    }
    save_checkpoint(tmp_path / "whole", tensors, {"step": 3})
    save_halved(tmp_path / "half", tensors, {"step": 3})
    found, facts = load_checkpoint(tmp_path / "half")
    assert facts == {"step": 3}
    assert {k: t.dtype for k, t in found.items()} == {k: t.dtype for k, t in tensors.items()}
    for name in ("weight", "tiny"):
        assert torch.equal(found[name], tensors[name].half().float())
    for name in ("count", "double", "yes"):
        assert torch.equal(found[name], tensors[name])
    with safe_open(tmp_path / "half", framework="pt") as file:
        assert file.get_tensor("weight").dtype == torch.float16
    # float16 weights of somebody's own stay what they are
    save_checkpoint(tmp_path / "own", {"a": torch.ones(2).half()}, {})
    assert load_checkpoint(tmp_path / "own")[0]["a"].dtype == torch.float16


def test_weights_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'a' holds values that are too large for float16"):
        save_halved(tmp_path / "x", {"a": torch.tensor([1e5])}, {})
    assert not (tmp_path / "x").exists()


@pytest.fixture
def halved(trained: Path, tmp_path: Path) -> Path:
    """The trained run with its weights stored as float16."""
    run = tmp_path / "halved"
    run.mkdir()
    (run / "config.json").write_bytes((trained / "config.json").read_bytes())
    tensors, facts = load_checkpoint(trained / "model.safetensors")
    save_halved(run / "model.safetensors", tensors, facts)
    return run


def test_a_run_with_halved_weights_loads(trained: Path, halved: Path) -> None:
    whole, half = load(trained), load(halved)
    assert half.steps == whole.steps
    before, after = whole.learner.state_dict(), half.learner.state_dict()
    for name, tensor in before.items():
        expected = tensor.half().float() if tensor.dtype == torch.float32 else tensor
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], expected), name


def test_an_encoder_takes_its_weights_from_a_halved_run(halved: Path) -> None:
    section = json.loads((halved / "config.json").read_text())["config"]["learner"]
    encoder = section["encoder"]
    options = {"name": encoder} if isinstance(encoder, str) else encoder
    section["encoder"] = {**options, "weights": str(halved / "model.safetensors")}
    learner = build(section, (3, 16, 16), 5)
    trained = load(halved).learner.encoder.state_dict()
    for name, tensor in learner.encoder.state_dict().items():
        assert torch.equal(tensor, trained[name]) and tensor.dtype == trained[name].dtype, name


def test_every_command_takes_a_run_with_halved_weights(
    halved: Path, call: Call, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((16, 16, 3), 40 * number + 100 * (folder == "b"), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / folder / f"{number}.png")
    few = tmp_path / "few.csv"
    few.write_text("sample,label\na/0.png,a\nb/0.png,b\n")
    images = tmp_path / "images"
    for words in (
        ("evaluate", halved, "evaluation.episodes=3"),
        ("episodes", halved, "--out", tmp_path / "episodes.json"),
        ("predict", halved, "--support", images, "--query", images),
        ("features", images, "--run", halved, "-o", tmp_path / "features"),
        (
            "label",
            images,
            "--support",
            few,
            "--run",
            halved,
            "--neighbors",
            2,
            "-o",
            tmp_path / "l",
        ),
    ):
        code, _, err = call(*words)
        assert code == 0, (words[0], err)


def test_nothing_writes_a_number_that_json_has_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_one_episode_is_null_wherever_it_is_written(
    trained: Path, call: Call, tmp_path: Path
) -> None:
    one = ("evaluation.episodes=1", "--out", tmp_path / "e.json")
    code, out, err = call("evaluate", trained, *one)
    assert code == 0 and "±" not in out and "nan" not in out.lower(), err
    (row,) = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)["rows"]
    assert row["ci95"] is None and row["label_seed"] == 0
    code, out, err = call(
        "evaluate", trained, "--on", "arrays", f"data.root={trained.parent / 'data'}", *one
    )
    assert code == 0 and "±" not in out and "nan" not in out.lower(), err
    assert (
        json.loads(call("evaluate", trained, *one, "--json")[1], parse_constant=pytest.fail)[0][
            "ci95"
        ]
        is None
    )
    settings = Experiment.read(
        trained.parent / "my.yaml",
        ["trainer.steps=2", "trainer.val_every=2", "trainer.val_episodes=1"],
    )
    progress.run(settings.changed("evaluation={episodes: 1}"), tmp_path / "r", Console(quiet=True))
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1], parse_constant=pytest.fail)["val_ci95"] is None
    assert call("report", tmp_path / "r", "--out", tmp_path / "rep")[0] == 0

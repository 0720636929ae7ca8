"""Two kinds of tasks of their own, each one file: nothing else learns of them."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphfsl as gf
from graphfsl import data
from graphfsl.core import registry
from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Head
from graphfsl.core.task import Metric
from graphfsl.data import tasks
from graphfsl.data.tasks import as_task
from graphfsl.functional.statistics import mean_and_ci95
from graphfsl.io.errors import InputError
from graphfsl.loops.row import MetricValue, Row
from graphfsl.loops.training_state import State
from tests.support.command import Call

# Which pixels of an image are ink? Every pixel is a node of two numbers.
MAPS = '''
"""Two-class maps: which pixels are bright? The nodes are the pixels of a few images."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.task import Demands, Draw, Metric, Task
from graphfsl.data.streams import IMAGES, choose, keys_of, uniform

__all__ = ["Maps"]
SIDE = 6


@dataclass(frozen=True)
class MapTarget(BaseTarget):
    query: torch.Tensor
    ids: torch.Tensor

    def loss(self, scores, episode):
        found = scores[:, episode.query]
        return F.cross_entropy(found.flatten(0, 1), self.query.flatten())


def overlap(scores, target, episode):
    answer = F.one_hot(scores.argmax(-1), 2).bool()
    truth = F.one_hot(target.query, 2).bool()
    both, either = (answer & truth).sum(1), (answer | truth).sum(1)
    return torch.cat([both, either], 1).double()


def mean_iou(sums):
    both, either = sums.chunk(2, -1)
    return (both / either.clamp_min(1)).mean(-1)


class Images:
    def __init__(self, split, task, seed):
        self.split, self.task, self.seed = split, task, seed

    def draw(self, i):
        n = self.task.shot + self.task.query
        keys = keys_of(self.split.name, self.seed, np.asarray(i))
        room = np.full((len(keys), 1), len(self.split.x))
        return Draw(choose(room, uniform(keys, IMAGES, 1, n))[:, 0])


@dataclass(frozen=True)
class Maps(Task):
    """shot, query: images of the support and of the query."""

    nodes_are_samples: ClassVar = False
    always_shown: ClassVar = ("shot",)

    shot: int = 1
    query: int = 2

    @property
    def title(self):
        return f"maps, {self.shot}-shot"

    @property
    def size(self):
        return (self.shot,)

    @property
    def demands(self):
        pixels = SIDE * SIDE
        return Demands(
            way=2,
            nodes=(self.shot + self.query) * pixels,
            support=self.shot * pixels,
            queries=self.query * pixels,
        )

    @property
    def metrics(self):
        return {"mIoU": Metric(overlap, ratio=mean_iou)}

    def sample_shape(self, split):
        return (2,)

    def draws(self, split, seed):
        return Images(split, self, seed)

    def assemble(self, draw, split, raw, normalise, device):
        x = normalise(raw)[:, :, 0]
        truth = (raw[:, :, 0] > 127).long().flatten(1).to(device)
        around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        nodes = torch.stack([x, around], -1).flatten(1, 3)
        k = self.shot * SIDE * SIDE
        w = F.one_hot(truth, 2).to(nodes.dtype)
        w[:, k:] = 0
        episode = Episode(nodes, w, k, nodes.shape[1] - k, relabeled=False)
        return episode, MapTarget(truth[:, k:], torch.from_numpy(draw.ids).to(device))
'''

# What is the value of a function, of which a few points are known?
CURVES = '''
"""Values of a function of one number, of which a few points are known."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.task import Demands, Draw, Metric, Task
from graphfsl.data.streams import CLASSES, IMAGES, choose, keys_of, uniform

__all__ = ["Curves"]


@dataclass(frozen=True)
class Values(BaseTarget):
    query: torch.Tensor

    def loss(self, scores, episode):
        return (scores[:, episode.query] - self.query).square().mean()


def squared_error(scores, target, episode):
    return (scores - target.query).square().mean((1, 2))


class Points:
    def __init__(self, split, task, seed):
        self.split, self.task, self.seed = split, task, seed
        self.members = [np.flatnonzero(split.y.numpy() == c) for c in range(len(split.classes))]

    def draw(self, i):
        keys = keys_of(self.split.name, self.seed, np.asarray(i))
        n = self.task.points + self.task.query
        c = (uniform(keys, CLASSES, 1, 1)[:, 0, 0] * len(self.members)).astype(int)
        room = np.array([[len(self.members[k])] for k in c])
        at = choose(room, uniform(keys, IMAGES, 1, n))[:, 0]
        return Draw(np.stack([self.members[k][row] for k, row in zip(c, at)]))


@dataclass(frozen=True)
class Curves(Task):
    """points: known ones. query: those that are asked for."""

    unit: ClassVar = 2
    nodes_are_samples: ClassVar = False
    always_shown: ClassVar = ("points",)

    points: int = 5
    query: int = 4

    @property
    def title(self):
        return f"curves, {self.points} points"

    @property
    def size(self):
        return (self.points,)

    @property
    def demands(self):
        n = self.points + self.query
        return Demands(1, n, self.points, self.query, answers="values")

    @property
    def metrics(self):
        return {"squared error": Metric(squared_error, unit="", more_is_better=False)}

    def sample_shape(self, split):
        return (1,)

    def draws(self, split, seed):
        return Points(split, self, seed)

    def assemble(self, draw, split, raw, normalise, device):
        both = raw.to(device)
        x, y = both[..., :1], both[..., 1:]
        w = torch.zeros_like(x)
        w[:, : self.points] = 1
        episode = Episode(x, w, self.points, self.query, relabeled=False, values=y * w)
        return episode, Values(y[:, self.points :])
'''


class KernelMean(Head):
    """The mean of the known values, weighted by a Gaussian kernel whose width is learned."""

    answers = "values"

    def __init__(self) -> None:
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor(1.0))

    def score(self, episode: Episode) -> Tensor:
        assert episode.values is not None
        near = -(episode.x - episode.x.mT).square() / self.log_width.exp()
        known = episode.w[..., 0].unsqueeze(1) > 0
        return near.masked_fill(~known, float("-inf")).softmax(-1) @ episode.values


KernelMean.__module__ = "kernel_mean"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which there are both tasks, data for them, and an experiment of each."""
    folder = tmp_path / "own_tasks"
    folder.mkdir()
    (folder / "maps.py").write_text(MAPS)
    (folder / "curves.py").write_text(CURVES)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(folder)])
    for name in ("maps", "curves"):
        monkeypatch.delitem(sys.modules, f"graphfsl.data.tasks.{name}", raising=False)
    module = types.ModuleType("kernel_mean")
    module.KernelMean = KernelMean  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernel_mean", module)
    monkeypatch.setitem(
        registry.find(registry.PACKAGE), ("head", "kernel_mean"), ("kernel_mean", "KernelMean")
    )
    rng = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        images = np.kron(rng.integers(0, 2, (40, 3, 3)), np.ones((2, 2), int)) * 200
        noisy = np.clip(images + rng.normal(20, 60, images.shape), 0, 255).astype(np.uint8)
        (tmp_path / "maps").mkdir(exist_ok=True)
        np.savez(tmp_path / "maps" / f"{part}.npz", images=noisy, labels=np.arange(40) % 4)
        phase, x = rng.uniform(0, 6, 8).repeat(30), rng.uniform(-2, 2, 240)
        points = np.stack([x, np.sin(2 * x + phase)], 1).astype(np.float32)
        (tmp_path / "curves").mkdir(exist_ok=True)
        labels = np.arange(8).repeat(30)
        np.savez(tmp_path / "curves" / f"{part}.npz", features=points, labels=labels)
    short = {"steps": 12, "val_every": 4, "val_episodes": 6, "checkpoint_every": 4, "lr": 0.3}
    heads = {"maps": {"name": "protonet", "distance": "cosine"}, "curves": "kernel_mean"}
    for name, head in heads.items():
        experiment = {
            "data": {"name": "arrays", "root": str(tmp_path / name)},
            "learner": {"head": head},
            "episode": {"task": name},
            "trainer": {**short, "batch": 2, "log_every": 4},
            "evaluation": {"episodes": 8},
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(experiment))
    monkeypatch.chdir(tmp_path)
    return tmp_path


METRIC = {"maps": ("mIoU", "shot"), "curves": ("squared error", "points")}
both = pytest.mark.parametrize("name", METRIC)


@both
def test_it_trains_and_goes_on_to_the_same_weights(place: Path, call: Call, name: str) -> None:
    code, _, err = call("run", f"{name}.yaml", "--out", "whole")
    assert code == 0, err
    assert METRIC[name][0] in json.loads(Path("whole/results.json").read_text())["rows"][0]
    steps: list[int] = []
    append = State.record

    def stopped(state: State, line: dict[str, Any]) -> None:
        append(state, line)
        steps.append(line["step"])
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "record", stopped)
        assert call("run", f"{name}.yaml", "--out", "part")[0] == 130
    assert steps == [4, 8] and not Path("part/model.safetensors").exists()
    assert call("run", f"{name}.yaml", "--out", "part")[0] == 0
    one, two = (Path(p, "model.safetensors").read_bytes() for p in ("whole", "part"))
    assert one == two


@both
def test_the_best_weights_are_the_best_by_its_metric(place: Path, call: Call, name: str) -> None:
    assert call("run", f"{name}.yaml", "--out", "r")[0] == 0
    lines = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["val"] for line in lines if "val" in line}
    best = (min if name == "curves" else max)(values, key=lambda step: values[step])
    row = json.loads(Path("r/results.json").read_text())["rows"][0]
    assert row["steps"] == best and row["task"] == name


@both
def test_it_is_evaluated_with_other_options_and_reported(
    place: Path, call: Call, name: str
) -> None:
    metric, option = METRIC[name]
    assert call("run", f"{name}.yaml", "--out", "r")[0] == 0
    code, out, err = call("evaluate", "r", f"episode.{option}=3", "--json")
    assert code == 0, err
    (row,) = json.loads(out)
    assert row[option] == 3 and metric in row and "accuracy" not in row
    code, _, err = call("evaluate", "r", f"episode.{option}s=3")
    assert code == 2 and f"{option}s" in err
    assert call("report", "r", "--out", "report")[0] == 0
    text = Path("report/report.md").read_text()
    unit = " in percent" if name == "maps" else ""
    assert f"{metric[0].upper()}{metric[1:]}{unit}; ±" in text and f"| {metric} |" in text
    lines = list(csv.DictReader(Path("report/report.csv").read_text().splitlines()))
    assert float(lines[0][metric]) == pytest.approx(
        json.loads(Path("r/results.json").read_text())["rows"][0][metric]
    )


@both
def test_it_is_ablated(place: Path, call: Call, name: str) -> None:
    metric, option = METRIC[name]
    study = {
        "question": "How many?",
        "experiment": f"{name}.yaml",
        "grid": {f"test.episode.{option}": [1, 6]},
    }
    Path("study.yaml").write_text(json.dumps(study))
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    cells = list(csv.DictReader(Path("a/cells.csv").read_text().splitlines()))
    few, many = (float(cell[metric]) for cell in cells)
    assert (many < few) if name == "curves" else (many > few - 5)
    best = [json.loads(p.read_text())[metric] for p in Path("a/cells").glob("*.json")]
    assert sorted(best) == sorted([few, many])
    text = Path("a/report.md").read_text()
    assert f"test.episode.{option}" in text
    if name == "curves":  # of an error less is better
        findings = text.partition("## Findings")[2].partition("##")[0]
        assert "6 is " in findings and " better than 1" in findings
        assert "points better" not in findings
        (effect,) = json.loads(Path("a/study.json").read_text())["effects"]
        assert {effect["a"], effect["b"]} == {1, 6}
        assert effect["difference"] == pytest.approx(
            (few - many) * (1 if effect["a"] == 1 else -1), abs=1e-4
        )


@both
def test_its_episodes_are_listed_and_read_back(place: Path, call: Call, name: str) -> None:
    assert call("run", f"{name}.yaml", "--out", "r")[0] == 0
    assert call("episodes", f"{name}.yaml", "--out", "e.json")[0] == 0
    code, out, err = call("evaluate", "r", "--episodes", "e.json", "--json")
    assert code == 0, err
    own = json.loads(Path("r/results.json").read_text())["rows"][0]
    assert json.loads(out)[0][METRIC[name][0]] == own[METRIC[name][0]]


def test_a_learner_of_classes_is_not_asked_for_values(place: Path, call: Call) -> None:
    code, _, err = call("run", "curves.yaml", "learner.head=protonet", "--out", "r")
    assert code == 2 and "answers with classes, but the task asks for values" in err


def test_an_unknown_kind_is_one_line(place: Path, call: Call) -> None:
    code, _, err = call("run", "maps.yaml", "episode.task=mapz", "--out", "r")
    assert code == 2 and "did you mean 'maps'" in err and err.count("\n") == 1
    with pytest.raises(InputError, match="unknown option of episode 'way'"):
        as_task({"task": "maps", "way": 5})


def test_a_ratio_is_that_of_the_sums_and_its_units_are_pseudo_values() -> None:
    sums = torch.tensor([[1.0, 4.0], [3.0, 5.0], [0.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    metric = Metric(lambda *_: sums, ratio=lambda s: s[..., 0] / s[..., 1])
    whole = 6 / 13
    assert metric.value(sums) == pytest.approx(whole)
    naive = []
    for i in range(4):
        rest = sums[[j for j in range(4) if j != i]].sum(0)
        naive.append(4 * whole - 3 * float(rest[0] / rest[1]))
    found = metric.per_unit(sums)
    assert found.tolist() == pytest.approx(naive)
    assert metric.with_interval(sums)[1] == pytest.approx(mean_and_ci95(found)[1])
    pairs = metric.per_unit(sums, 2)
    first, second = 4 / 9, 2 / 4
    assert pairs.tolist() == pytest.approx([2 * whole - second, 2 * whole - first])


def test_a_ratio_that_one_unit_decides_has_no_interval() -> None:
    sums = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    metric = Metric(lambda *_: sums, ratio=lambda s: s[..., 0] / s[..., 1])
    value, half, _ = metric.with_interval(sums)
    assert value == 0.5 and half is None


def test_the_mean_of_a_unit_is_that_of_its_episodes() -> None:
    metric = Metric(lambda *_: torch.zeros(0))
    assert metric.per_unit(torch.tensor([1.0, 3.0, 5.0, 9.0]), 2).tolist() == [2.0, 7.0]


def test_classes_are_the_kind_where_none_is_named() -> None:
    assert as_task({"way": 7}) == data.Setting(way=7) == as_task({"task": "classes", "way": 7})
    assert tasks.name_of(data.Setting()) == "classes" and "classes" in tasks.names()


@both
def test_several_seeds_are_averaged_as_they_are(place: Path, call: Call, name: str) -> None:
    code, out, err = call("run", f"{name}.yaml", "seeds=2", "trainer.steps=4", "--out", "r")
    assert code == 0, err
    (row,) = json.loads(Path("r/results.json").read_text())["rows"]
    metric = METRIC[name][0]
    each = [
        json.loads(Path(f"r/seed-{seed}/results.json").read_text())["rows"][0][metric]
        for seed in (0, 1)
    ]
    assert row[metric] == pytest.approx(np.mean(each), rel=1e-4)
    assert row["seed_values"] == each and "over 2 seeds" in out


def test_a_learner_of_values_is_refused_where_classes_are_asked_for(
    place: Path, call: Call
) -> None:
    assert call("run", "curves.yaml", "--out", "r")[0] == 0
    assert gf.load("r").learner.answers == "values"  # `evaluate` takes it, `predict` does not
    with pytest.raises(InputError, match="answers with values"):
        gf.load("r").predict({"a": ["1.png"], "b": ["2.png"]}, ["3.png"])
    with pytest.raises(InputError, match="answers with values"):
        gf.FewShotClassifier(KernelMean()).fit(np.ones((4, 1)), [0, 0, 1, 1])


def test_what_needs_whole_samples_is_refused_of_pieces(place: Path, call: Call) -> None:
    code, _, err = call("run", "maps.yaml", "learner.head=simple_shot", "--out", "r")
    assert code == 2 and "no whole samples" in err and err.count("\n") == 1
    code, _, err = call("run", "maps.yaml", "learner.head=tpn", "--out", "r")
    assert code == 2 and "choose another learner.head" in err and err.count("\n") == 1


def test_a_saved_learner_of_pieces_is_loaded(place: Path) -> None:
    split = gf.load_data("arrays", "train", root="maps")
    episodes = gf.Episodes(split, {"task": "maps"})
    learner = gf.build({"head": {"name": "protonet", "distance": "cosine"}}, (2,), 2)
    gf.Trainer(steps=1).fit(learner, episodes)
    learner.save("saved")
    assert gf.load("saved").run.shape == (2,)


def test_episodes_of_values_share_a_batch(place: Path) -> None:
    split = gf.load_data("arrays", "train", root="curves")
    few, many = (gf.Episodes(split, {"task": "curves", "points": n}).batch([0])[0] for n in (2, 4))
    both_of = stack([few, many])
    assert both_of.values is not None and both_of.values.shape == (2, 8, 1)
    assert torch.equal(both_of.values[1], many.values[0])


def test_rows_of_other_metrics_keep_their_numbers() -> None:
    tiny = MetricValue.shown(1.23456789e-7, 2e-8, "", more_is_better=False)
    row = Row("a/test", {}, "inductive", {"squared error": tiny}, [1.2e-7, 1.3e-7])
    back = Row.from_dict(row.to_dict())
    assert (
        back.value == tiny
        and str(tiny) == "1.235e-07 ± 2e-08"
        and list(back.values)
        == [
            1.2e-7,
            1.3e-7,
        ]
    )


def test_results_rows_have_no_two_things_of_one_name() -> None:
    row = Row("a/test", {}, "inductive", {"accuracy": MetricValue(90.0)}, [0.9])
    own = set(row.to_dict()) - {"accuracy"} | {"metric", "values", "unit"}
    assert own <= tasks.RESERVED

"""Pretraining before episodes: batches, objectives against closed forms, one encoder for all runs,
resuming.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from graphfsl.cli.main import app
from graphfsl.core.pretrainer import Pretrainer
from graphfsl.data import Split, Transform, load
from graphfsl.data.batches import Batches, partly_labeled
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.pretraining import folder
from graphfsl.functional.contrastive import nt_xent
from graphfsl.functional.statistics import class_statistics
from graphfsl.io.checkpoint import load_checkpoint
from graphfsl.io.errors import InputError
from graphfsl.loops.encode import encode_split
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.methods.pretrain.cross_entropy import CrossEntropy
from graphfsl.methods.pretrain.distillation import Distillation
from graphfsl.methods.pretrain.nca import NCA
from graphfsl.methods.pretrain.rotation import Rotation
from graphfsl.methods.pretrain.simclr import SimCLR
from graphfsl.nn.classifier import CosineClassifier
from tests.support.cases import DIM, TinyEncoder

CLASSES = 6


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def split(name: str = "train", seed: int = 0, each: int = 10) -> Split:
    g = torch.Generator().manual_seed(seed)
    pattern = torch.rand(CLASSES, 1, 8, 8, generator=g)
    y = torch.arange(CLASSES).repeat_interleave(each)
    x = (pattern[y] + 0.2 * torch.randn(len(y), 1, 8, 8, generator=g)).clamp(0, 1)
    return Split(
        (255 * x).to(torch.uint8), y, tuple(f"c{i}" for i in range(CLASSES)), f"patterns/{name}"
    )


# Batches


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order() -> None:
    batches = Batches(split(), seed=3)
    first, second = batches.ids(np.arange(60)), batches.ids(np.arange(60, 120))
    assert sorted(first) == sorted(second) == list(range(60))
    assert list(first) != list(second)


@pytest.mark.parametrize("per_class", [1, 3])
def test_a_batch_is_a_pure_function_of_its_numbers(per_class: int) -> None:
    """Any part of any batch, over the end of an epoch too, shows what the whole shows."""
    options: dict[str, Any] = {
        "per_class": per_class,
        "views": 2,
        "transform": Transform(rotate=20, translate=0.1),
    }
    numbers = np.arange(50, 74)
    (whole, target), other = (
        Batches(split(), 1, **options).batch(numbers),
        Batches(split(), 1, **options),
    )
    assert whole.x.shape == (2, 24, 1, 8, 8) and not torch.equal(whole.x[0], whole.x[1])
    for at in (slice(0, 5), slice(9, 12), slice(20, 24)):
        part, truth = other.batch(numbers[at])
        assert torch.equal(part.x, whole.x[:, at]) and torch.equal(truth.query, target.query[:, at])


def test_images_of_a_class_come_together_where_pairs_are_needed() -> None:
    batches = Batches(split(), seed=0, per_class=4)
    _, target = batches.batch(np.arange(24))
    y, ids = target.query[0].view(6, 4), target.ids[0].view(6, 4)
    assert (y == y[:, :1]).all() and sorted(y[:, 0].tolist()) == list(range(CLASSES))
    assert all(len(set(row)) == 4 for row in ids.tolist()), "different images of a class"
    with pytest.raises(InputError, match="has 10 images, but pretraining takes 11 of a class"):
        Batches(split(), per_class=11)


def test_images_without_a_label_are_left_out() -> None:
    base = split()
    y = base.y.clone()
    y[::2] = -1
    ids = Batches(Split(base.x, y, base.classes, base.name)).ids(np.arange(60))
    assert set(ids) == set(range(1, 60, 2))


# Objectives


def encode(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, :DIM]


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, n, 1, 4, 4), torch.arange(n).remainder(3)[None]


def test_nca_equals_a_loop_over_pairs() -> None:
    x, y = batch(7)
    # the only one of its class: it has no pair, and stands in the denominators of the others
    y[0, 6] = 5
    z, t, terms = encode(x[0]), 2.0, []
    for i in range(6):
        e = [torch.exp(-(z[i] - z[j]).square().sum() / t) for j in range(7)]
        same = sum(e[j] for j in range(7) if j != i and y[0, j] == y[0, i])
        terms.append(-torch.log(same / sum(e[j] for j in range(7) if j != i)))
    torch.testing.assert_close(NCA(temperature=t)(encode, x, y), torch.stack(terms).mean())


def test_nca_has_a_gradient_where_a_row_has_no_pair() -> None:
    x, _ = batch(4)
    x.requires_grad_()
    NCA()(encode, x, torch.tensor([[0, 1, 2, 2]])).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_images_without_a_label_are_no_neighbours() -> None:
    x, y = batch(7)
    more, labels = torch.cat([x, x[:, :3] + 0.1], 1), torch.cat([y, torch.full((1, 3), -100)], 1)
    torch.testing.assert_close(NCA()(encode, more, labels), NCA()(encode, x, y))


def test_rotation_is_the_mean_over_four_turns() -> None:
    x, y = batch()
    objective = Rotation(DIM, 3, weight=0.5)
    turned = torch.stack([F.cross_entropy(objective.turn(encode(x[0].rot90(r, (-2, -1)))),
                                          torch.full((8,), r)) for r in range(4)])  # fmt: skip
    expected = F.cross_entropy(objective.classifier(encode(x[0])), y[0]) + 0.5 * turned.mean()
    torch.testing.assert_close(objective(encode, x, y), expected)
    assert Rotation(DIM, 3, supervised=False).classifier is None


def test_simclr_equals_a_loop() -> None:
    objective = SimCLR(DIM, temperature=0.3)
    x = torch.randn(2, 5, 1, 4, 4)
    z = F.normalize(objective.project(encode(x.flatten(0, 1))), dim=-1)
    total = 0.0
    for i in range(10):
        e = [torch.exp(z[i] @ z[k] / 0.3) for k in range(10)]
        total = total - torch.log(e[(i + 5) % 10] / sum(e[k] for k in range(10) if k != i))
    torch.testing.assert_close(objective(encode, x, torch.zeros(2, 5).long()), total / 10)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.5, 2.2052791240394902), (0.07, 8.792860585540591)]
)
def test_nt_xent_is_that_of_lightly(temperature: float, expected: float) -> None:
    """The values of lightly 1.6.0's NTXentLoss on the same numbers."""

    def view(shift: int) -> Tensor:
        rows = [[(3 * i + 5 * j + shift) % 11 for j in range(4)] for i in range(5)]
        return torch.tensor(rows, dtype=torch.float64) / 4 - 1.25

    assert nt_xent(view(0), view(2), temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -0.5])
def test_simclr_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(InputError, match=r"simclr\.temperature must be above 0, not "):
        SimCLR(DIM, temperature=temperature)


def test_distillation_follows_its_teacher() -> None:
    x, y = batch()
    objective = Distillation(DIM, 3, alpha=0.4, beta=0.6, temperature=4.0)
    hard = F.cross_entropy(objective.classifier(encode(x[0])), y[0])
    torch.testing.assert_close(objective(encode, x, y), hard)  # the first generation has none
    scores = torch.randn(8, 3)
    objective.teacher = lambda images: scores
    p, q = (scores / 4).softmax(-1), (objective.classifier(encode(x[0])) / 4).softmax(-1)
    kl = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(objective(encode, x, y), 0.4 * hard + 0.6 * 16 * kl)
    assert not [n for n, _ in objective.named_parameters() if "teacher" in n]


def test_cosine_classifier() -> None:
    head = CosineClassifier(DIM, 4, scale=3.0)
    with torch.no_grad():
        head.lengths.copy_(torch.arange(1.0, 5.0))
    z = torch.randn(2, DIM)
    cos = F.cosine_similarity(z[:, None], head.directions[None], -1)
    torch.testing.assert_close(head(z), 3.0 * torch.arange(1.0, 5.0) * cos)
    with pytest.raises(InputError, match="unknown classifier 'cosin'; did you mean 'cosine'"):
        CrossEntropy(DIM, 3, classifier="cosin")


def test_class_statistics_are_those_of_numpy() -> None:
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(-1, 3, (30,))
    y[y == 1] = 2
    y[0] = 1  # a class of one sample
    mean, means, covariances = class_statistics(x, y, 4)
    torch.testing.assert_close(mean, x[y >= 0].mean(0))
    for c in (0, 2):
        torch.testing.assert_close(means[c], x[y == c].mean(0))
        torch.testing.assert_close(covariances[c], torch.from_numpy(np.cov(x[y == c].numpy().T)))
    torch.testing.assert_close(means[1], x[0])
    assert not covariances[1].any() and not means[3].any() and not covariances[3].any()


def test_the_trainer_pretrains() -> None:
    torch.manual_seed(0)
    model = Pretrainer(TinyEncoder(), CrossEntropy(DIM, CLASSES))
    trainer = Trainer(steps=80, batch=20, lr=0.02, log_every=20)
    metrics = trainer.fit(model, Batches(split()))
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]


# Runs


def settings(*overrides: str) -> Experiment:
    return Experiment.of(
        {
            "data": {"name": "glyphs", "mean": [0.0], "std": [1.0]},
            "pretrain": {
                "objective": "cross_entropy",
                "trainer": {"steps": 4, "batch": 16, "val_episodes": 4},
            },
            "learner": {
                "encoder": {"name": "conv4", "width": 4, "frozen": True},
                "head": "simple_shot",
            },
            "episode": {"way": 3, "shot": 1, "query": 2},
            "evaluation": {"episodes": 4},
        },
        overrides,
    )


def test_the_same_pretraining_has_the_same_folder_and_only_that() -> None:
    here = folder(settings(), Path("r"))
    same = (
        "learner.head=protonet",
        "learner.encoder.frozen=false",
        "trainer.steps=9",
        "evaluation.episodes=9",
    )
    for other in (*same, "trainer.device=cpu", "episode.shot=2"):
        assert folder(settings(other), Path("r")) == here, other
    shared = settings("data.augment={rotate: 5}"), settings("pretrain.augment={rotate: 5}")
    assert folder(shared[0], Path("r")) == folder(shared[1], Path("r")) != here
    for other in (
        "seed=1",
        "learner.encoder.width=8",
        "pretrain.objective=nca",
        "pretrain.trainer.steps=5",
    ):
        assert folder(settings(other), Path("r")) != here, other


def cli(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, InputError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def write(path: Path, *overrides: str) -> str:
    path.write_text(json.dumps(settings(*overrides).to_dict()))
    return str(path)


def test_two_heads_share_one_pretraining(tmp_path: Path) -> None:
    file, out = write(tmp_path / "e.yaml"), str(tmp_path / "runs")
    assert cli("pretrain", file, "--out", out)[0] == 0
    (pretraining,) = Path(out).iterdir()
    before = (pretraining / "model.safetensors").stat().st_mtime_ns
    for head in ("simple_shot", "protonet"):
        assert cli("run", file, f"learner.head={head}", "--out", f"{out}/{head}")[0] == 0
    assert len(list(Path(out).glob("pretrain-*"))) == 1
    assert (pretraining / "model.safetensors").stat().st_mtime_ns == before
    one, two = (runs.load(Path(out) / head).learner for head in ("simple_shot", "protonet"))
    for a, b in zip(one.encoder.parameters(), two.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    results = json.loads((Path(out) / "protonet" / "results.json").read_text())
    assert results["rows"][0]["steps"] == 4 and results["pretraining_seconds"] > 0
    statistics, _ = load_checkpoint(pretraining / "statistics.safetensors")
    assert statistics["class_covariances"].shape == (len(statistics["class_means"]), 4, 4)
    torch.testing.assert_close(statistics["mean"], one.head.mean)


def test_no_hidden_label_reaches_fit_base_nor_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those that pretraining may not see nor those that meta-training may not."""
    seen: list[Tensor] = []
    monkeypatch.setattr(SimpleShot, "fit_base", lambda self, x, y: seen.append(y))
    few = (
        "pretrain.objective={name: consistency, labeled_fraction: 0.5}",
        "train_episode={labeled_fraction: 0.5, label_seed: 1}",
    )
    code, said = cli("run", write(tmp_path / "e.yaml", *few), "--out", str(tmp_path / "runs" / "a"))
    assert code == 0, said
    base = load("glyphs", "train")
    first, second = (partly_labeled(base, 0.5, seed).y >= 0 for seed in (0, 1))
    assert torch.equal(seen[0], base.y[first & second]) and len(seen[0]) < int(first.sum()) < len(
        base.y
    )
    run = runs.load(tmp_path / "runs" / "a")
    features = encode_split(run.learner, base, run.transform).x
    (pretraining,) = (tmp_path / "runs").glob("pretrain-*")
    statistics, _ = load_checkpoint(pretraining / "statistics.safetensors")
    torch.testing.assert_close(statistics["mean"], features[first].mean(0))


def test_too_small_a_labeled_fraction_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    file = write(
        tmp_path / "e.yaml", "pretrain.objective={name: consistency, labeled_fraction: 0.001}"
    )
    code, said = cli("run", file, "--out", str(tmp_path / "runs" / "a"))
    assert (
        code == 2
        and ("without a label") in said
        and not list((tmp_path / "runs").glob("pretrain-*/*.safetensors"))
    )


def test_an_encoder_that_is_not_frozen_goes_on_learning(tmp_path: Path) -> None:
    changes = (
        "learner.encoder.frozen=false",
        "learner.head=meta_baseline",
        "trainer.steps=3",
        "trainer.val_episodes=4",
    )
    file = write(tmp_path / "e.yaml", *changes)
    assert cli("run", file, "--out", str(tmp_path / "runs" / "a"))[0] == 0
    (pretraining,) = (tmp_path / "runs").glob("pretrain-*")
    first, _ = load_checkpoint(pretraining / "model.safetensors")
    run = runs.load(tmp_path / "runs" / "a")
    moved = run.learner.encoder.convs[0].weight - first["encoder.convs.0.weight"]
    assert 0 < moved.abs().max() < 0.02, "three small steps from where pretraining ended"
    assert run.steps == 4 + 3


def test_generations_teach_each_other(tmp_path: Path) -> None:
    file = write(tmp_path / "e.yaml", "pretrain.objective=distillation", "pretrain.generations=2")
    assert cli("pretrain", file, "--out", str(tmp_path / "runs"))[0] == 0
    (path,) = (tmp_path / "runs").iterdir()
    losses = [
        json.loads((path / f"generation-{g}" / "metrics.jsonl").read_text().splitlines()[-1])[
            "loss"
        ]
        for g in (1, 2)
    ]
    assert losses[0] != losses[1], "the second has a teacher"


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    found = []
    for name, stop in (("whole", None), ("stopped", 4)):
        every = ("pretrain.trainer.checkpoint_every=2", "pretrain.trainer.log_every=1")
        chosen = settings("pretrain.trainer.steps=8", *every)

        def log(line: dict[str, Any], stop: int | None = stop) -> None:
            if line["step"] == stop:
                raise KeyboardInterrupt

        if stop:
            with pytest.raises(KeyboardInterrupt):
                runs.pretrain_alone(chosen, tmp_path / name, log)
        path = runs.pretrain_alone(chosen, tmp_path / name)
        found.append(load_checkpoint(path / "model.safetensors")[0])
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("pretrain.objective=cross_entropi", "did you mean 'cross_entropy'"),
        (
            "pretrain.objektive=nca",
            "unknown option of pretrain 'objektive'; did you mean 'objective'",
        ),
        ("pretrain.trainer.stepz=3", "did you mean 'steps'"),
        ("pretrain.trainer.device=cpu", "set trainer.device"),
        ("pretrain.generations=0", "pretrain.generations must be 1 or more, not 0"),
        ("pretrain.augment={turn: 3}", "unknown option of data.augment 'turn'"),
        ("learner.encoder=pixels", "pretrain needs an encoder with parameters"),
        ("pretrain.objective={name: nca, per_class: 1}", "per_class 2 or more"),
        ("pretrain=3", "pretrain must be a mapping"),
    ],
)
def test_mistakes_are_one_line(change: str, says: str, tmp_path: Path) -> None:
    code, line = cli(
        "run", write(tmp_path / "e.yaml"), change, "--out", str(tmp_path / "runs" / "x")
    )
    assert code == 2 and says in line and "\n" not in line.strip(), line
    assert not (tmp_path / "runs").exists()


def test_pretrain_asks_for_the_section(tmp_path: Path) -> None:
    code, line = cli("pretrain", "demo.yaml", "--out", str(tmp_path / "runs"))
    assert code == 2 and "no section `pretrain`" in line
